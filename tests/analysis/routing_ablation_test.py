import contextlib
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.analysis import AblationReport
from keras_comet.analysis import Estimate
from keras_comet.analysis import GateAblation
from tests.helpers import rows

NAMES = ["mean_weights", "shuffled", "largest_only", "best_single_expert"]
FEATURES = rows(22, 3)
LABELS = {"buy": rows(22, 1, seed=1), "see": rows(22, 1, seed=2)}
# The last batch is smaller.
SIZES = [12, 10]
BATCHES = np.split(np.arange(22), [12])


def make_model(dispatch="auto", gate=keras_comet.SoftmaxGate, **arguments):
    """Two tasks with gates over shared experts, and outputs of their own."""
    gates = {task: gate(3) for task in LABELS}
    inputs = keras.Input((3,))
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(4) for _ in range(3)], gates, dispatch
    )(inputs)
    model = keras.Model(
        inputs,
        {
            task: keras.layers.Dense(1, name=task)(mixture)
            for task, mixture in mixtures.items()
        },
    )
    randomize(model)
    model.compile("sgd", dict.fromkeys(LABELS, "mse"), **arguments)
    return model


def make_small_model(gate):
    """One output: expert 0 says 1 and expert 1 says -1, whatever the row."""
    experts = [
        keras.layers.Dense(1, None, True, "zeros", bias_initializer=sign)
        for sign in (
            keras.initializers.Constant(1.0),
            keras.initializers.Constant(-1.0),
        )
    ]
    moe = keras_comet.MixtureOfExperts(experts, gate)
    model = keras.Sequential([keras.Input((3,)), moe])
    model.compile("sgd", "mse")
    return model, experts


def randomize(model):
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))


def parts_of(model, task):
    """The experts, the gate of a task and the layer after its mixture."""
    if isinstance(model, keras_comet.MultiGateRecommender):
        mixture = model.mixture
        [head] = model.towers[task].dense.values()
    else:
        [mixture] = [each for each in model.layers if hasattr(each, "gates")]
        head = model.get_layer(task)
    return mixture.experts, mixture.gates[task], head


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def dense(layer, features):
    return features @ layer.kernel.numpy() + layer.bias.numpy()


def mix_by_hand(experts, weights):
    outputs = np.stack([dense(expert, FEATURES) for expert in experts], axis=1)
    return np.einsum("bn,bnw->bw", weights, outputs)


def interventions_by_hand(weights, seed=0):
    n = weights.shape[-1]
    shuffled = np.random.default_rng(seed).permutation(weights)
    return {
        "mean_weights": np.tile(weights.mean(axis=0), (len(weights), 1)),
        "shuffled": shuffled,
        "largest_only": np.eye(n)[weights.argmax(axis=-1)],
        **{e: np.tile(np.eye(n)[e], (len(weights), 1)) for e in range(n)},
    }


def estimate_by_hand(values, sizes=SIZES):
    shares = np.array(sizes) / sum(sizes)
    mean = sum(shares * values)
    variance = 2 / 1 * sum(shares**2 * (values - mean) ** 2)
    return mean, np.sqrt(variance)


def ablation_by_hand(model, task, sample_weights=None):
    """Estimates of the loss and of the differences, by NumPy."""
    experts, gate, head = parts_of(model, task)
    weights = softmax(dense(gate, FEATURES))
    sizes = SIZES
    if sample_weights is not None:
        sizes = [sample_weights[batch].sum() for batch in BATCHES]

    def losses(weights):
        outputs = dense(head, mix_by_hand(experts, weights))
        errors = (outputs - LABELS[task])[:, 0] ** 2
        return np.array(
            [
                errors[batch].mean()
                if sample_weights is None
                else (errors * sample_weights)[batch].sum()
                / max(sample_weights[batch].sum(), 1e-9)
                for batch in BATCHES
            ]
        )

    as_it_is = losses(weights)
    differences = {
        name: estimate_by_hand(losses(changed) - as_it_is, sizes)
        for name, changed in interventions_by_hand(weights).items()
    }
    singles = [differences.pop(expert) for expert in range(weights.shape[-1])]
    best = int(np.argmin([mean for mean, _ in singles]))
    differences["best_single_expert"] = singles[best]
    return estimate_by_hand(as_it_is, sizes), differences, singles, best


def assert_is(found, expected):
    loss, differences, singles, best = expected
    assert found.loss == pytest.approx(loss, abs=1e-5)
    assert list(found.differences) == NAMES
    for name in NAMES:
        assert found.differences[name] == pytest.approx(
            differences[name], abs=1e-5
        )
    np.testing.assert_allclose(found.single_experts, singles, atol=1e-5)
    assert found.best_expert == best


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_each_gate_is_overruled_alone_as_numpy_says(dispatch):
    model = make_model(dispatch, loss_weights={"buy": 0.3, "see": 2.0})
    report = keras_comet.routing_ablation(model, (FEATURES, LABELS), 12)
    assert list(report.gates) == ["buy", "see"]
    for task in LABELS:
        assert_is(report.gates[task], ablation_by_hand(model, task))


def test_data_set_gives_what_arrays_give():
    gate = keras_comet.SoftmaxGate(2, name="gate")
    model, experts = make_small_model(gate)
    randomize(model)
    sample_weights = np.random.default_rng(3).uniform(0.5, 2.0, size=22)
    arrays = (FEATURES, LABELS["buy"], sample_weights)
    data = tf.data.Dataset.from_tensor_slices(arrays).batch(12)
    report = keras_comet.routing_ablation(model, data)
    assert report == keras_comet.routing_ablation(model, arrays, batch_size=12)
    mixed = mix_by_hand(experts, softmax(dense(gate, FEATURES)))
    errors = sample_weights * (mixed - LABELS["buy"])[:, 0] ** 2
    expected = np.array([errors[batch].mean() for batch in BATCHES])
    assert report.gates["gate"].loss == pytest.approx(
        estimate_by_hand(expected), rel=1e-5
    )


def test_columns_of_a_recommender_are_taken_as_fit_takes_them(eager):
    columns = {
        "tags": [["a", "b"], ["b"], [], ["c"]] * 3,
        "user": ["ann", "bob", "cy", "dee"] * 3,
    }
    labels = {"click": [0, 1, 1] * 4, "stars": [None] * 5 + [4.0] * 7}
    model = keras_comet.MultiGateRecommender.from_data(
        columns, labels, num_experts=2, expert_units=4
    )
    model.compile("sgd")
    report = keras_comet.routing_ablation(model, (columns, labels), 6)
    losses = model.evaluate(
        columns, labels, batch_size=6, verbose=0, return_dict=True
    )
    for task in labels:
        assert report.gates[task].loss.mean == pytest.approx(
            losses[f"{task}_loss"], rel=1e-5
        )


def test_a_gate_of_several_outputs_is_judged_by_the_whole_loss():
    gate = keras_comet.SoftmaxGate(3, name="gate")
    experts = [keras.layers.Dense(4, kernel_regularizer="l2") for _ in "abc"]
    inputs = keras.Input((3,))
    mixture = keras_comet.MixtureOfExperts(experts, gate)(inputs)
    heads = {task: keras.layers.Dense(1, name=task) for task in LABELS}
    model = keras.Model(inputs, [head(mixture) for head in heads.values()])
    randomize(model)
    model.compile("sgd", ["mse", "mse"], loss_weights=[0.3, 2.0])
    data = (FEATURES, list(LABELS.values()))
    report = keras_comet.routing_ablation(model, data, batch_size=12)

    def losses(weights):
        mixed = mix_by_hand(experts, weights)
        errors = sum(
            factor * (dense(heads[task], mixed) - LABELS[task])[:, 0] ** 2
            for task, factor in (("buy", 0.3), ("see", 2.0))
        )
        return np.array([errors[batch].mean() for batch in BATCHES])

    weights = softmax(dense(gate, FEATURES))
    changed = interventions_by_hand(weights)
    found = report.gates["gate"]
    assert found.loss == pytest.approx(
        estimate_by_hand(losses(weights)), abs=1e-5
    )
    for name in ("mean_weights", "shuffled", "largest_only"):
        difference = losses(changed[name]) - losses(weights)
        assert found.differences[name] == pytest.approx(
            estimate_by_hand(difference), abs=1e-5
        )


def test_missing_labels_do_not_count():
    is_missing = np.random.default_rng(4).uniform(size=22) < 0.5
    # A batch without any label has the loss 0.
    is_missing[:12] = True
    model = keras_comet.MultiGateRecommender(
        features={
            "x": keras_comet.NumericFeature(
                [0.0] * 3, [1.0] * 3, missing="mean"
            )
        },
        experts=[keras.layers.Dense(4) for _ in range(3)],
        gates={task: keras_comet.SoftmaxGate(3) for task in LABELS},
        tasks=[
            keras_comet.Task("buy", "mse", missing_label=9.0),
            keras_comet.Task("see", "mse", weight=0.5),
        ],
        tower_units=(),
    )
    model.compile("sgd")
    randomize(model)
    labels = {**LABELS, "buy": np.where(is_missing[:, None], 9, LABELS["buy"])}
    data = ({"x": FEATURES}, labels)
    report = keras_comet.routing_ablation(model, data, batch_size=12)
    assert_is(
        report.gates["buy"],
        ablation_by_hand(model, "buy", 1.0 - is_missing),
    )
    assert_is(report.gates["see"], ablation_by_hand(model, "see"))


class ConstantGate(keras_comet.Gate):
    """Weights that float32 holds exactly, so that they stay equal."""

    def route(self, routing_inputs, training):
        shape = [tf.shape(routing_inputs)[0], 1, 2]
        return tf.broadcast_to([0.5, 0.5], shape), {}


def test_a_constant_gate_is_found_out():
    model, _ = make_small_model(ConstantGate(2, name="gate"))
    zeros = np.zeros((22, 1), "float32")
    report = keras_comet.routing_ablation(model, (FEATURES, zeros), 12)
    found = report.gates["gate"]
    assert found.differences == {
        "mean_weights": (0.0, 0.0),
        "shuffled": (0.0, 0.0),
        "largest_only": (1.0, 0.0),
        "best_single_expert": (1.0, 0.0),
    }
    assert found.verdict == (
        "the gate does not look at the rows, or to no avail: mean weights and "
        "shuffled cost nothing"
    )


def test_equal_experts_are_found_out():
    model = make_model()
    experts, *_ = parts_of(model, "buy")
    for expert in experts[1:]:
        expert.set_weights(experts[0].get_weights())
    report = keras_comet.routing_ablation(model, (FEATURES, LABELS), 12)
    for found in report.gates.values():
        for each in (*found.differences.values(), *found.single_experts):
            assert each == pytest.approx((0.0, 0.0), abs=1e-5)
        assert found.verdict == "these experts are one expert"


def test_planted_routing_costs_what_the_closed_form_says():
    gate = keras_comet.SoftmaxGate(2, name="gate")
    model, _ = make_small_model(gate)
    # The label is the sign of the first feature, which the gate reads.
    gate.kernel.assign([[200.0, -200.0], [0.0, 0.0], [0.0, 0.0]])
    # Three of four rows of each batch are positive: p = 3/4.
    signs = np.tile([1.0, 1.0, -1.0, 1.0], 3).astype("float32")[:, np.newaxis]
    data = (signs * np.ones(3, "float32"), signs)
    report = keras_comet.routing_ablation(model, data, batch_size=4)
    found = report.gates["gate"]
    assert found.loss == (0.0, 0.0)
    # p (1 - (2p - 1))^2 + (1 - p) (-1 - (2p - 1))^2 = 4 p (1 - p)
    assert found.differences["mean_weights"] == pytest.approx((0.75, 0.0))
    assert found.differences["largest_only"] == (0.0, 0.0)
    # 4 for each row of the other sign.
    assert found.single_experts == [(1.0, 0.0), (3.0, 0.0)]
    assert found.best_expert == 0
    assert found.verdict == (
        "the routing is worth +0.75 ± 0 over mean weights, next to a loss of 0"
    )


class Failure(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    calls = []

    def loss(y_true, y_pred):
        calls.append(1)
        if fails and len(calls) > 8:
            raise Failure
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    model = make_model()
    model.compile(
        "sgd",
        dict.fromkeys(LABELS, loss),
        metrics=dict.fromkeys(LABELS, "mae"),
        run_eagerly=True,
    )
    model.test_on_batch(FEATURES, LABELS)
    variables = [
        *model.variables,
        *(v for metric in model.metrics for v in metric.variables),
    ]
    before = [np.array(tf.convert_to_tensor(each)) for each in variables]
    assert any(each.sum() for each in before[len(model.variables) :])
    outputs = model(FEATURES)["buy"].numpy()
    with pytest.raises(Failure) if fails else contextlib.nullcontext():
        keras_comet.routing_ablation(model, (FEATURES, LABELS), 12)
    assert len(calls) > 8
    for old, new in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, tf.convert_to_tensor(new))
    np.testing.assert_array_equal(outputs, model(FEATURES)["buy"])


def test_metrics_made_meanwhile_start_at_zero():
    model = make_model()
    data = (FEATURES[:2], {task: each[:2] for task, each in LABELS.items()})
    keras_comet.routing_ablation(model, data, batch_size=1)
    assert "buy_loss" in [metric.name for metric in model.metrics]
    for metric in model.metrics:
        for variable in metric.variables:
            assert not np.any(tf.convert_to_tensor(variable))


def test_tokens_are_overruled_one_by_one():
    tokens = FEATURES[:20].reshape(4, 5, 3)
    gate = keras_comet.TopKGate(3, k=1, name="gate")
    experts = [keras.layers.Dense(1) for _ in range(3)]
    inputs = keras.Input((5, 3))
    mixture = keras_comet.MixtureOfExperts(experts, gate, "sparse")(inputs)
    model = keras.Model(inputs, mixture)
    randomize(model)
    model.compile("sgd", "mse")
    data = (tokens, tokens[..., :1])
    found = keras_comet.routing_ablation(model, data, 2).gates["gate"]
    features = FEATURES[:20]
    outputs = np.stack([dense(e, features) for e in experts], axis=1)
    weights = np.eye(3)[dense(gate, features).argmax(axis=-1)]
    shuffled = np.random.default_rng(0).permutation(weights)

    def losses(weights):
        mixed = np.einsum("bn,bnw->bw", weights, outputs)
        return ((mixed - features[:, :1]) ** 2).reshape(2, 10).mean(axis=1)

    difference = (losses(shuffled) - losses(weights)).mean()
    assert found.differences["shuffled"].mean == pytest.approx(
        difference, abs=1e-5
    )
    assert found.differences["largest_only"] == (0.0, 0.0)


def test_padding_is_no_row():
    tokens = FEATURES[:20].reshape(4, 5, 3).copy()
    is_token = np.arange(5) < np.array([[5], [1], [2], [4]])
    tokens[~is_token] = 0.0
    gate = keras_comet.SoftmaxGate(3, name="gate")
    experts = [keras.layers.Dense(1) for _ in range(3)]
    inputs = keras.Input((5, 3))
    mixture = keras_comet.MixtureOfExperts(experts, gate)
    model = keras.Model(inputs, mixture(keras.layers.Masking()(inputs)))
    randomize(model)
    model.compile("sgd", "mse")
    data = (tokens, tokens[..., :1])
    found = keras_comet.routing_ablation(model, data, 2).gates["gate"]
    features = tokens[is_token]
    outputs = np.stack([dense(e, features) for e in experts], axis=1)
    weights = softmax(dense(gate, features))
    batch_of = np.nonzero(is_token)[0] // 2

    def loss(weights):
        mixed = np.einsum("bn,bnw->bw", weights, outputs)
        losses = (mixed - features[:, :1]) ** 2
        return np.mean([losses[batch_of == b].mean() for b in (0, 1)])

    for name, changed in interventions_by_hand(weights).items():
        if name in ("mean_weights", "shuffled"):
            assert found.differences[name].mean == pytest.approx(
                loss(changed) - loss(weights), abs=1e-5
            )


def make_report():
    """Numbers by hand: one expert is enough for `buy`, not for `see`."""
    values = {
        "buy": ([0.02, 0.03, 0.5, 0.015], [0.9, 0.015, 0.8]),
        "see": ([0.4, 0.7, -0.01, 0.2], [0.9, 0.6, 0.2]),
    }
    return AblationReport(
        {
            task: GateAblation(
                Estimate(1.25, 0.1),
                {
                    name: Estimate(mean, 0.01)
                    for name, mean in zip(NAMES, differences, strict=True)
                },
                [Estimate(mean, 0.01) for mean in singles],
                int(np.argmin(singles)),
            )
            for task, (differences, singles) in values.items()
        }
    )


def test_report_is_a_table_with_a_reading():
    report = make_report()
    table, how_to_read, verdicts = str(report).split("\n\n")
    assert table == report.table()
    assert table.splitlines() == [
        "| gate | as it is | mean weights | shuffled | largest only | "
        "best single expert |",
        "| --- | --- | --- | --- | --- | --- |",
        "| buy | 1.25 | +0.02 ± 0.01 | +0.03 ± 0.01 | +0.5 ± 0.01 | "
        "+0.015 ± 0.01 (expert 1) |",
        "| see | 1.25 | +0.4 ± 0.01 | +0.7 ± 0.01 | -0.01 ± 0.01 | "
        "+0.2 ± 0.01 (expert 2) |",
    ]
    assert "standard error" in how_to_read
    assert verdicts.splitlines() == [
        "- buy: one expert (1) serves all rows as well.",
        "- see: the routing is worth +0.2 ± 0.01 over best single expert, "
        "next to a loss of 1.25.",
    ]


def test_report_is_plain_values():
    found = make_report().to_dict()["see"]
    assert found["as_it_is"] == {"mean": 1.25, "standard_error": 0.1}
    assert found["shuffled"] == {"mean": 0.7, "standard_error": 0.01}
    assert found["best_expert"] == 2
    assert found["verdict"].startswith("the routing is worth")


def test_plot_has_a_bar_for_each_column_and_no_pyplot():
    loaded = "matplotlib.pyplot" in sys.modules
    buy, see = make_report().plot().axes
    assert see.get_title() == "see: 1.25 as it is"
    assert [bar.get_width() for bar in see.patches] == [0.4, 0.7, -0.01, 0.2]
    assert [label.get_text() for label in buy.get_yticklabels()] == [
        "mean weights",
        "shuffled",
        "largest only",
        "best single expert",
    ]
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-comet\[tensorboard\]"):
        make_report().plot()


def test_bad_arguments_raise():
    model = make_model()
    data = tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(12)
    for wrong, message in (
        ((FEATURES, LABELS), "at least two batches. Received: 1"),
        (data.repeat(), "endless"),
        (data.map(lambda x, y: x), "Received: .* without labels"),
        ([FEATURES, LABELS], "Received: list"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_comet.routing_ablation(model, wrong)
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        keras_comet.routing_ablation(model, (FEATURES, LABELS), 0)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="not compiled"):
        keras_comet.routing_ablation(plain, (FEATURES, LABELS["buy"]))
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="called no gate"):
        keras_comet.routing_ablation(plain, (FEATURES, LABELS["buy"]), 12)
