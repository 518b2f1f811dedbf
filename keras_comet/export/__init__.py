"""Export of models for serving."""

from keras_comet.export.saved_model import export_saved_model

__all__ = ["export_saved_model"]
