"""The sides that keras_comet is compared with compute the right thing."""

import numpy as np
import pytest

from benchmarks import baselines
from benchmarks import torch_baseline
from benchmarks import workloads
from tests import reference
from tests.helpers import rows

NUM_EXPERTS = 5


def expected(layers, x, weights):
    """Mixtures in float64, one row and expert after the other."""
    mixtures = []
    for each in weights:
        mixture = np.zeros((len(x), layers[-1][0].shape[-1]))
        for b, e in zip(*np.nonzero(each), strict=True):
            hidden = x[b].astype("float64")
            for index, (kernels, biases) in enumerate(layers):
                hidden = hidden @ kernels[e] + biases[e]
                if len(layers) == 1 or index < len(layers) - 1:
                    hidden = np.maximum(hidden, 0.0)
            mixture[b] += each[b, e] * hidden
        mixtures.append(mixture)
    return mixtures


def dense_loop(layers, x, weights):
    experts = baselines.make_perceptrons(layers)
    return baselines.dense_loop(experts, x, weights)


def dense_einsum(layers, x, weights):
    return baselines.DenseEinsum(layers)(x, weights)


def masked_loop(layers, x, weights):
    experts = baselines.make_perceptrons(layers)
    return baselines.masked_loop(experts, x, weights)


def torch_loop(layers, x, weights):
    pytest.importorskip("torch")
    return torch_baseline.TorchIndexLoop(layers, x, weights)()


@pytest.mark.parametrize(
    "mix", [dense_loop, dense_einsum, masked_loop, torch_loop]
)
@pytest.mark.parametrize("widths", [[3], [4, 3]])
def test_mixtures_follow_the_formula(mix, widths):
    layers = workloads.make_layers(NUM_EXPERTS, 6, *widths)
    x = rows(9, 6)
    weights = [
        workloads.balanced_weights(9, NUM_EXPERTS, 2, seed) for seed in (0, 1)
    ]
    found = mix(layers, x, weights)
    for ours, theirs in zip(found, expected(layers, x, weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_experts", [2, 5, 8])
def test_recursive_tree_follows_the_formula(num_experts):
    weights = [
        0.5 * rows(4, 2, num_experts - 1, seed=1),
        0.1 * rows(2, num_experts - 1, seed=2),
        rows(4, 2, num_experts, seed=3),
        rows(2, num_experts, seed=4),
    ]
    x = rows(7, 4)
    np.testing.assert_allclose(
        baselines.RecursiveTree(*weights)(x),
        reference.comet(x, *weights, gamma=1.0),
        rtol=0,
        atol=1e-6,
    )
