"""Imports TensorFlow without the notices that its libraries print.

They say that there is no GPU, before TensorFlow reads any setting, so that
what is written to the error stream while it is imported is kept back. Errors
are raised as ever, and shown with all that was kept back. Numbers do not
change: no setting of oneDNN or CUDA is touched.

With TF_CPP_MIN_LOG_LEVEL set to anything but 3, all notices are shown.
"""

import logging
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3":
    with tempfile.TemporaryFile() as kept_back:
        errors = os.dup(2)
        os.dup2(kept_back.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            kept_back.seek(0)
            os.write(errors, kept_back.read())
            raise
        finally:
            os.dup2(errors, 2)
            os.close(errors)
    # In a notebook TensorFlow tells of every file that it writes.
    logging.getLogger("tensorflow").setLevel("WARNING")
