"""Multi-task data sets: fetched, verified, cached and split."""

from keras_comet.datasets.census_income import census_income
from keras_comet.datasets.image_domains import image_domains
from keras_comet.datasets.movielens import movielens_100k
from keras_comet.datasets.multi_mnist import multi_mnist
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.strokes import synthetic_strokes
from keras_comet.datasets.synthetic import synthetic_multitask

__all__ = [
    "MultitaskDataset",
    "Split",
    "census_income",
    "image_domains",
    "movielens_100k",
    "multi_mnist",
    "synthetic_multitask",
    "synthetic_strokes",
]
