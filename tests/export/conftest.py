"""One process serves what all tests of this folder exported."""

import pytest

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from tests.export.exports import Exports


@pytest.fixture(scope="package")
def exports(tmp_path_factory):
    from tests.export import permutation_test
    from tests.export import saved_model_test

    keras.utils.set_random_seed(0)
    result = Exports(tmp_path_factory.mktemp("exports"))
    saved_model_test.add_exports(result)
    if KERAS_3:
        permutation_test.add_exports(result)
    keras.backend.clear_session()
    result.serve()
    return result
