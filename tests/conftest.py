"""Fixes what tests share, sorts tests by cost, and bounds their time.

TensorFlow and Keras are imported in functions, as the process that hands tests
out to others takes part in none.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compute little, in as many processes as there are cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# XLA compiles for correctness here: a quarter of the time of such tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import gc
import pathlib
import time

import hypothesis
import pytest

from tests.cost import mark_by_cost
from tests.cost import rank

# A longer test needs the marker `slow`: seconds, with the set-up that is its
# own, and without the one that it shares with others.
LONGEST_TEST = 20.0
# Machines differ, and a busy one has slower cores: only what takes this many
# times as long fails.
TOLERANCE = 3.0

# What is the same in both Kerases, and so runs in Keras 3 alone; why it is the
# same is in CONTRIBUTING.md.
KERAS_3_ONLY = [
    "analysis",
    "benchmarks",
    "callbacks/cardinality_target_test.py",
    "datasets",
    "docs_test.py",
    "documentation_test.py",
    "examples",
    "export/permutation_test.py",
    "export/warmup_test.py",
    "faults/soak_test.py",
    "gates/comet_gate_test.py",
    "gates/dselect_k_gate_test.py",
    "gates/expert_permutation_test.py",
    "gates/hash_gate_test.py",
    "gates/property_test.py",
    "gates/replace_test.py",
    "gates/softmax_gate_test.py",
    "gates/top_k_gate_test.py",
    "guarantees_test.py",
    "keras_test.py",
    "layers/customized_gate_control_test.py",
    "layers/expert_mixture_test.py",
    "layers/mixture_of_experts_test.py",
    "layers/shared_base_experts_test.py",
    "layers/stacked_dense_experts_test.py",
    "layers/union_cap_test.py",
    "metrics/permutation_distance_test.py",
    "metrics/routing_statistics_test.py",
    "models/features_test.py",
    "models/infer_test.py",
    "models/sequence_feature_test.py",
    "models/task_experts_test.py",
    "models/tfrs_test.py",
    "models/upcycle_test.py",
    "ops",
    "public_api_test.py",
    "regularizers",
    "search/exchange_search_test.py",
    "search/sinkhorn_search_test.py",
    "serving",
    "source_test.py",
    "studies",
]

_STARTED = pytest.StashKey[tuple[float, float]]()

hypothesis.settings.register_profile(
    "ci",
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "thorough",
    parent=hypothesis.settings.get_profile("ci"),
    max_examples=1000,
    derandomize=False,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_ignore_collect(collection_path):
    from keras_comet._keras import KERAS_3

    tests = pathlib.Path(__file__).parent
    left_out = [] if KERAS_3 else KERAS_3_ONLY
    return collection_path in [tests / name for name in left_out] or None


@pytest.fixture(autouse=True)
def fresh_keras():
    from keras_comet._keras import KERAS_3
    from keras_comet._keras import keras

    # Without a garbage collection for every test, half of the suite's time.
    keras.backend.clear_session(**({"free_memory": False} if KERAS_3 else {}))
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def eager():
    """Traces nothing: for what is the same in a graph."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        mark_by_cost(item)
    items.sort(key=rank)


def pytest_collection_finish():
    # What was imported is never garbage: collections need not look at it.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.stash[_STARTED] = _clocks()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fails a test that is too long and not marked so.

    The lesser of wall time and CPU time counts, that of ended children
    included: a busy machine prolongs the one, a second core the other.
    """
    report = yield
    if call.when == "setup" and item.get_closest_marker("xdist_group"):
        item.stash[_STARTED] = _clocks()
    if call.when == "call":
        seconds = min(
            now - then
            for now, then in zip(_clocks(), item.stash[_STARTED], strict=True)
        )
        slow = item.get_closest_marker("slow")
        if report.passed and seconds > TOLERANCE * LONGEST_TEST and not slow:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {seconds:.0f} s. Make it shorter than "
                f"{LONGEST_TEST:.0f} s, or mark it `slow`."
            )
    return report


def _clocks():
    times = os.times()
    cpu = times.user + times.system + times.children_user
    return time.monotonic(), cpu + times.children_system
