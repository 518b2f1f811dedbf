import math

import numpy as np
import pytest

from keras_comet.ops import normalized_entropy


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.25, 0.25, 0.25, 0.25], 1.0),
        ([0.0, 1.0, 0.0], 0.0),
        ([1.0], 1.0),
        ([0.5, 0.5, 0.0, 0.0], math.log(2) / math.log(4)),
        ([0.75, 0.25], -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))),
        ([math.nan, math.nan], math.nan),
        ([math.nan], math.nan),
    ],
)
def test_entropy_by_hand(shares, expected):
    found = normalized_entropy(np.array(shares))
    np.testing.assert_allclose(found, expected, atol=1e-12)
