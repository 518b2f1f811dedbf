import numpy as np
import pytest

import keras_comet
from keras_comet import testing
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras


def rising_weight():
    return keras.optimizers.schedules.PolynomialDecay(0.0, 8, 0.1)


def permutation(num_experts, num_permutations=1):
    made = keras_comet.ExpertPermutation(num_experts, num_permutations)
    orders = [
        np.roll(np.arange(num_experts), shift + 1)
        for shift in range(num_permutations)
    ]
    made.assignment.assign(orders)
    return made


def dense_experts(count=3):
    return [keras.layers.Dense(2, "tanh") for _ in range(count)]


def stacked_experts():
    return keras_comet.StackedDenseExperts(
        3, [3, 2], "relu", deviation_scale=0.5
    )


def image_experts():
    return [
        keras.Sequential(
            [
                keras.layers.Conv2D(2, 3, activation="relu"),
                keras.layers.MaxPool2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )
        for _ in range(3)
    ]


def two_gates():
    shared = permutation(3)
    return {
        "click": keras_comet.COMETGate(
            3, entropy_weight=0.1, permutation=shared
        ),
        "buy": keras_comet.COMETGate(3, permutation=shared),
    }


def integer_ids(batch):
    return np.arange(batch, dtype="int64") * 7 % 11


def string_ids(batch):
    return np.array([f"user {index}" for index in range(batch)], dtype=object)


def rows(batch, *shape):
    values = np.random.default_rng(batch).normal(size=(batch, *shape))
    return values.astype("float32")


def images_and_vectors(batch):
    return rows(batch, 5, 5, 1), rows(batch, 4)


def images_and_vectors_by_task(batch):
    return (
        rows(batch, 5, 5, 1),
        {"click": rows(batch, 4), "buy": rows(batch + 1, 3)[:batch]},
    )


# Every public layer, with what is special about it: class, constructor
# arguments, and inputs as a shape or a function of the batch size.
GATES = {
    "comet": (
        keras_comet.COMETGate,
        lambda: {
            "num_experts": 6,
            "k": 3,
            "entropy_weight": rising_weight(),
            "permutation": permutation(6),
        },
        (4,),
    ),
    "comet of one expert": (
        keras_comet.COMETGate,
        {"num_experts": 1, "k": 1},
        (4,),
    ),
    "comet of tokens": (
        keras_comet.COMETGate,
        {"num_experts": 4, "load_balance_weight": 0.1},
        (3, 4),
    ),
    "dselect_k": (
        keras_comet.DSelectKGate,
        lambda: {
            "num_experts": 5,
            "entropy_weight": 0.1,
            "permutation": permutation(5, 2),
        },
        (4,),
    ),
    "static dselect_k": (
        keras_comet.DSelectKGate,
        lambda: {
            "num_experts": 6,
            "k": 3,
            "example_conditioned": False,
            "penalty_weight": rising_weight(),
        },
        (4,),
    ),
    "dselect_k of one expert": (
        keras_comet.DSelectKGate,
        {"num_experts": 1, "k": 1},
        (4,),
    ),
    "top_k": (
        keras_comet.TopKGate,
        lambda: {"num_experts": 5, "permutation": permutation(5, 2)},
        (4,),
    ),
    "noisy top_k": (
        keras_comet.TopKGate,
        {
            "num_experts": 5,
            "k": 2,
            "noise": True,
            "seed": 1,
            "load_balance_weight": 0.1,
        },
        (4,),
    ),
    "hash table": (
        keras_comet.HashGate,
        lambda: {
            "num_experts": 3,
            "num_ids": 11,
            "permutation": permutation(3),
        },
        integer_ids,
    ),
    "hash of integers": (
        keras_comet.HashGate,
        {"num_experts": 3, "seed": 7},
        lambda batch: integer_ids(batch)[:, np.newaxis],
    ),
    "hash of strings": (
        keras_comet.HashGate,
        {"num_experts": 3},
        string_ids,
    ),
    "softmax": (
        keras_comet.SoftmaxGate,
        lambda: {
            "num_experts": 5,
            "z_loss_weight": rising_weight(),
            "load_balance_weight": 0.1,
            "kernel_initializer": keras.initializers.RandomNormal(seed=1),
        },
        (4,),
    ),
}

LAYERS = {
    **GATES,
    "permutation": (
        keras_comet.ExpertPermutation,
        {"num_experts": 4, "num_permutations": 3},
        (3, 4),
    ),
    "stacked experts": (
        keras_comet.StackedDenseExperts,
        {
            "num_experts": 3,
            "units": [4, 2],
            "activation": ["relu", None],
            "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
            "kernel_regularizer": keras.regularizers.L2(0.1),
        },
        (5,),
    ),
    "categorical feature": (
        keras_comet.CategoricalFeature,
        {"vocabulary": [0, 7, 3], "embedding_dim": 2},
        integer_ids,
    ),
    "hashed feature": (
        keras_comet.HashedFeature,
        {"num_bins": 3, "embedding_dim": 2},
        string_ids,
    ),
    "multi-categorical feature": (
        keras_comet.MultiCategoricalFeature,
        {"vocabulary": [1, 7, 3], "embedding_dim": 2, "combiner": "sum"},
        lambda batch: np.stack([integer_ids(batch)] * 2, axis=1),
    ),
    "sequence feature": (
        keras_comet.SequenceFeature,
        lambda: {
            "vocabulary": keras_comet.EmbeddingTable([1, 7, 3], 2),
            "max_length": 3,
        },
        lambda batch: np.stack([integer_ids(batch)] * 2, axis=1),
    ),
    "embedding table": (
        keras_comet.EmbeddingTable,
        {"vocabulary": [0, 7, 3], "embedding_dim": 2, "num_oov_ids": 2},
        integer_ids,
    ),
    "layer feature": (
        keras_comet.LayerFeature,
        lambda: {"layer": keras.layers.Dense(2), "shape": [4]},
        (4,),
    ),
    "bucketized feature": (
        keras_comet.BucketizedFeature,
        {"boundaries": [-0.5, 0.5], "embedding_dim": 2},
        (),
    ),
    "numeric feature": (
        keras_comet.NumericFeature,
        {"mean": [0.5, 1.0], "variance": [2.0, 4.0]},
        (2,),
    ),
    "numeric feature without gaps": (
        keras_comet.NumericFeature,
        {"mean": 0.5, "variance": 2.0, "missing": "error"},
        (),
    ),
    "mixture": (
        keras_comet.MixtureOfExperts,
        lambda: {
            "experts": dense_experts(),
            "gate": keras_comet.COMETGate(3, permutation=permutation(3)),
            "shared_experts": dense_experts(1),
        },
        (4,),
    ),
    "mixture of stacked experts": (
        keras_comet.MixtureOfExperts,
        lambda: {
            "experts": stacked_experts(),
            "gate": keras_comet.DSelectKGate(3),
            "dispatch": "dense",
        },
        (4,),
    ),
    "mixture of images": (
        keras_comet.MixtureOfExperts,
        lambda: {
            "experts": image_experts(),
            "gate": keras_comet.TopKGate(3, k=1),
            "dispatch": "sparse",
        },
        images_and_vectors,
    ),
    "mixture of tokens": (
        keras_comet.MixtureOfExperts,
        lambda: {
            "experts": dense_experts(),
            "gate": keras_comet.TopKGate(3, k=1),
            "dispatch": "sparse",
        },
        (3, 4),
    ),
    "mixture routed by id": (
        keras_comet.MixtureOfExperts,
        lambda: {
            "experts": dense_experts(),
            "gate": keras_comet.HashGate(3),
        },
        lambda batch: (rows(batch, 4), integer_ids(batch)),
    ),
    "multi-gate": (
        keras_comet.MultiGateMixtureOfExperts,
        lambda: {"experts": dense_experts(), "gates": two_gates()},
        (4,),
    ),
    "multi-gate of stacked experts": (
        keras_comet.MultiGateMixtureOfExperts,
        lambda: {
            "experts": stacked_experts(),
            "gates": {
                "click": keras_comet.SoftmaxGate(3),
                "buy": keras_comet.TopKGate(3, k=1, balance_rate=0.1),
            },
            "dispatch": "dense",
            "shared_experts": stacked_experts(),
        },
        (4,),
    ),
    "multi-gate of images": (
        keras_comet.MultiGateMixtureOfExperts,
        lambda: {
            "experts": image_experts(),
            "gates": two_gates(),
            "dispatch": "sparse",
        },
        images_and_vectors_by_task,
    ),
    "multi-gate of tokens": (
        keras_comet.MultiGateMixtureOfExperts,
        lambda: {"experts": dense_experts(), "gates": two_gates()},
        (3, 4),
    ),
    "customized gate control": (
        keras_comet.CustomizedGateControl,
        lambda: {
            "task_experts": {"click": dense_experts(2), "buy": dense_experts()},
            "shared_experts": dense_experts(1),
            "gates": {
                "click": keras_comet.COMETGate(3, entropy_weight=0.1),
                "buy": keras_comet.TopKGate(4),
            },
            "shared_gate": keras_comet.COMETGate(6, permutation=permutation(6)),
        },
        (4,),
    ),
    "last level of customized gate control": (
        keras_comet.CustomizedGateControl,
        lambda: {
            "task_experts": {
                "click": stacked_experts(),
                "buy": dense_experts(),
            },
            "shared_experts": stacked_experts(),
            "gates": {
                "click": keras_comet.DSelectKGate(6),
                "buy": keras_comet.SoftmaxGate(6),
            },
            "dispatch": "dense",
        },
        lambda batch: {
            name: rows(batch + index, 4)[:batch]
            for index, name in enumerate(("click", "buy", "shared"))
        },
    ),
    "recommender": (
        keras_comet.MultiGateRecommender,
        lambda: {
            "features": {
                "id": keras_comet.CategoricalFeature([0, 7, 3], 2),
                "x": keras_comet.NumericFeature([0.5, 1.0], [2.0, 4.0]),
            },
            "experts": dense_experts(),
            "gates": two_gates(),
            "tasks": [
                keras_comet.Task("click", "mse"),
                keras_comet.Task("buy", "mse", units=2),
            ],
            "tower_units": [3],
        },
        lambda batch: {"id": integer_ids(batch), "x": rows(batch, 2)},
    ),
}


EXCEPTIONS = {
    # TensorFlow's lookup tables have no kernel for XLA.
    ("categorical feature", testing.check_compiled_training),
    ("multi-categorical feature", testing.check_compiled_training),
    ("sequence feature", testing.check_compiled_training),
    ("embedding table", testing.check_compiled_training),
    ("recommender", testing.check_compiled_training),
    # XLA leaves assertions out.
    ("numeric feature without gaps", testing.check_compiled_training),
    # Its predictions are float32 under every policy.
    ("recommender", testing.check_mixed_precision),
}

if KERAS_3:
    LAYERS["shared base"] = (
        keras_comet.SharedBaseExperts,
        lambda: {
            "layer": keras.layers.Dense(2, "tanh"),
            "num_experts": 3,
            "deviation_scale": 0.5,
        },
        (4,),
    )

# Of these one of each class tells most: those of others are slow. In a graph
# they are left out with tf_keras, as layers compute by TensorFlow's ops.
IN_A_GRAPH = (testing.check_gradients, testing.check_compiled_training)
LONG = (*IN_A_GRAPH, testing.check_saving)
FIRST_OF_CLASS = {
    layer_class: layer for layer, (layer_class, *_) in reversed(LAYERS.items())
}


def is_first(layer):
    return FIRST_OF_CLASS[LAYERS[layer][0]] == layer


PAIRS = [
    pytest.param(
        layer,
        check,
        marks=pytest.mark.slow if check in LONG and not is_first(layer) else (),
    )
    for layer in LAYERS
    for check in testing.LAYER_CHECKS
    if (layer, check) not in EXCEPTIONS
    and (KERAS_3 or is_first(layer) or check not in IN_A_GRAPH)
]


@pytest.mark.parametrize(("layer", "check"), PAIRS)
def test_layer_conforms(layer, check):
    random = layer == "noisy top_k" and check is testing.check_compiled_training
    check(*LAYERS[layer], **({"random": True} if random else {}))


@pytest.mark.parametrize("check", testing.GATE_CHECKS)
@pytest.mark.parametrize("gate", GATES)
def test_gate_conforms(gate, check):
    check(*GATES[gate])


@pytest.mark.skipif(KERAS_3, reason="Keras 3 has stateless_call")
def test_keras_2_is_told_what_to_use_for_a_base_of_any_layer():
    with pytest.raises(ValueError, match="Use StackedDenseExperts"):
        keras_comet.SharedBaseExperts(keras.layers.Dense(2), 3)
