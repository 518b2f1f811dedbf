"""Distance from a permutation, against brute force."""

import itertools

import numpy as np

from keras_comet.metrics import permutation_distance


def test_distance_is_what_the_best_of_all_permutations_leaves():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), (3, 4))
    expected = [
        1.0
        - max(
            np.mean(matrix[np.arange(4), list(order)])
            for order in itertools.permutations(range(4))
        )
        for matrix in weights
    ]
    np.testing.assert_allclose(permutation_distance(weights), expected)


def test_permutations_have_none_and_the_uniform_matrix_most():
    weights = np.stack([np.eye(5)[[3, 1, 4, 0, 2]], np.full((5, 5), 0.2)])
    np.testing.assert_allclose(
        permutation_distance(weights), [0.0, 0.8], atol=1e-12
    )
