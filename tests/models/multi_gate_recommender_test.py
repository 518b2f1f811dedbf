import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import CategoricalFeature
from keras_comet import MultiGateRecommender
from keras_comet import NumericFeature
from keras_comet import Task
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet.export.signature import find_input_signature
from keras_comet.gates.capture import capture_calls
from keras_comet.models.node_name import node_name

NUM_ROWS = 48
USERS = [f"u{index}" for index in range(10)]
ITEMS = [7, 11, 13, 17]

GATES = {
    "comet": lambda: keras_comet.COMETGate(5, entropy_weight=0.1),
    "dselect_k": lambda: keras_comet.DSelectKGate(5),
    "top_k": lambda: keras_comet.TopKGate(5, noise=True, seed=1),
    "hash": lambda: keras_comet.HashGate(5, num_ids=11),
    "hash_any": lambda: keras_comet.HashGate(5),
    "softmax": lambda: keras_comet.SoftmaxGate(5),
}


def make_model(gate="comet", compile=True, run_eagerly=True, **kwargs):
    kwargs = {
        "features": {
            "user": CategoricalFeature(USERS, embedding_dim=4),
            "item": CategoricalFeature(ITEMS, embedding_dim=4),
            "age": NumericFeature(40.0, 100.0),
        },
        "experts": keras_comet.StackedDenseExperts(5, [6], "relu"),
        "gates": {"click": GATES[gate](), "rating": GATES[gate]()},
        "tasks": [
            Task(
                "click",
                "binary_crossentropy",
                [keras.metrics.AUC(name="auc")],
                weight=0.9,
                activation="sigmoid",
            ),
            Task(
                "rating",
                "mse",
                [keras.metrics.RootMeanSquaredError(name="rmse")],
                weight=0.1,
                missing_label=0.0,
            ),
        ],
        "tower_units": [4],
        # One branch to trace; tests/layers compare the ways to dispatch.
        "dispatch": "dense",
        **kwargs,
    }
    model = MultiGateRecommender(**kwargs)
    if compile:
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=run_eagerly)
    return model


def make_data(seed=0):
    random = np.random.default_rng(seed)
    # Two of the users and one of the items are unknown to the model.
    features = {
        "user": random.choice([*USERS, "new", "newer"], NUM_ROWS),
        "item": random.choice([*ITEMS, 5], NUM_ROWS),
        "age": random.uniform(20, 60, NUM_ROWS).astype("float32"),
    }
    rating = random.integers(1, 6, NUM_ROWS)
    labels = {
        "click": random.integers(0, 2, NUM_ROWS).astype("float32"),
        "rating": np.where(random.random(NUM_ROWS) < 0.5, rating, 0.0).astype(
            "float32"
        ),
    }
    return features, labels


def losses_by_formula(predictions, labels, weights=None):
    weights = np.ones(NUM_ROWS) if weights is None else weights
    p = predictions["click"][:, 0].astype("float64")
    y = labels["click"]
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    error = (predictions["rating"][:, 0] - labels["rating"]) ** 2
    rated = weights * (labels["rating"] != 0)
    return (
        (weights * entropy).sum() / weights.sum(),
        (rated * error).sum() / rated.sum(),
    )


@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(gate, marks=[] if gate == "top_k" else pytest.mark.slow)
        for gate in GATES
    ],
)
def test_fit_evaluate_predict_with_every_gate(gate):
    # One of them in a graph, where tests/testing compile every gate.
    model = make_model(gate, dispatch="auto", run_eagerly=gate != "comet")
    model.optimizer.build(model.trainable_variables)
    x, y = make_data()
    first = model.fit(x, y, batch_size=NUM_ROWS, verbose=0).history
    last = model.fit(
        x, y, batch_size=NUM_ROWS, epochs=5, verbose=0, validation_data=(x, y)
    ).history
    assert last["loss"][-1] < first["loss"][0]
    assert {"click_auc", "rating_rmse", "val_loss", "click_loss"} <= set(last)
    predictions = model.predict(x, verbose=0)
    assert {name: p.shape for name, p in predictions.items()} == {
        "click": (NUM_ROWS, 1),
        "rating": (NUM_ROWS, 1),
    }


def test_evaluate_equals_the_formulas():
    model = make_model()
    x, y = make_data()
    results = model.evaluate(
        x, y, batch_size=NUM_ROWS, verbose=0, return_dict=True
    )
    click, rating = losses_by_formula(model.predict(x, verbose=0), y)
    np.testing.assert_allclose(results["click_loss"], click, rtol=1e-5)
    np.testing.assert_allclose(results["rating_loss"], rating, rtol=1e-5)
    np.testing.assert_allclose(results["rating_rmse"], rating**0.5, rtol=1e-5)
    np.testing.assert_allclose(
        results["loss"], 0.9 * click + 0.1 * rating, rtol=1e-5
    )


def test_a_batch_counts_as_many_labels_as_it_has():
    model = make_model()
    x, y = make_data()
    y["rating"][:7] = 0.0  # a batch without labels
    results = model.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    click, rating = losses_by_formula(model.predict(x, verbose=0), y)
    np.testing.assert_allclose(results["click_loss"], click, rtol=1e-5)
    np.testing.assert_allclose(results["rating_loss"], rating, rtol=1e-5)
    np.testing.assert_allclose(results["rating_rmse"], rating**0.5, rtol=1e-5)


def test_a_single_task_reports_its_loss_as_well():
    model = make_model(
        gates={"rating": GATES["softmax"]()},
        tasks=[Task("rating", "mse", missing_label=0.0)],
    )
    x, y = make_data()
    y["rating"][:7] = 0.0
    results = model.evaluate(
        x, {"rating": y["rating"]}, 7, verbose=0, return_dict=True
    )
    predictions = model.predict(x, verbose=0)["rating"][:, 0]
    known = y["rating"] != 0
    expected = np.mean((predictions - y["rating"])[known] ** 2)
    np.testing.assert_allclose(results["rating_loss"], expected, rtol=1e-5)


def test_sample_weight_of_zero_equals_a_missing_label():
    model = make_model()
    x, y = make_data()
    weights = np.arange(NUM_ROWS, dtype="float32") % 3
    results = model.evaluate(
        x,
        y,
        sample_weight={"click": weights, "rating": weights},
        batch_size=NUM_ROWS,
        verbose=0,
        return_dict=True,
    )
    click, rating = losses_by_formula(model.predict(x, verbose=0), y, weights)
    np.testing.assert_allclose(results["click_loss"], click, rtol=1e-5)
    np.testing.assert_allclose(results["rating_loss"], rating, rtol=1e-5)
    np.testing.assert_allclose(results["rating_rmse"], rating**0.5, rtol=1e-5)


def test_batch_without_labelled_row_trains_with_loss_zero():
    model = make_model("top_k")
    x, y = make_data()
    y["rating"] = np.zeros(NUM_ROWS, "float32")
    history = model.fit(x, y, verbose=0).history
    np.testing.assert_array_equal(history["rating_loss"], 0.0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    none = np.zeros(NUM_ROWS, "float32")
    results = model.evaluate(
        x,
        y,
        sample_weight={"click": none, "rating": none},
        verbose=0,
        return_dict=True,
    )
    assert results["loss"] == 0.0


def test_missing_rows_get_no_gradient():
    model = make_model("softmax")
    x, y = make_data()
    y["click"] = np.full(NUM_ROWS, 0.5, "float32")
    before = model.towers["rating"].get_weights()
    y["rating"] = np.zeros(NUM_ROWS, "float32")
    model.fit(x, y, verbose=0)
    for old, new in zip(
        before, model.towers["rating"].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def make_small_model():
    """Trains in eager mode, in a tenth of a second."""
    model = make_model(
        features={"age": NumericFeature(40.0, 100.0)},
        gates={task: GATES["softmax"]() for task in ("click", "rating")},
        compile=False,
    )
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


def test_one_missing_number_leaves_the_weights_finite():
    model = make_small_model()
    x, y = make_data()
    x["age"][3] = np.nan
    model.fit({"age": x["age"]}, y, batch_size=NUM_ROWS, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    predictions = model.predict({"age": x["age"]}, verbose=0)
    assert all(np.isfinite(each).all() for each in predictions.values())


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("labels", "labels of task 'click'"),
        ("weights", "sample weights of task 'rating'"),
        ("tower", "predictions of task 'rating'"),
        ("table", "feature 'user'"),
    ],
)
def test_what_is_not_finite_is_named(what, match):
    model = make_small_model()
    x, y = make_data()
    weights = {task: np.ones(NUM_ROWS, "float32") for task in y}
    if what == "labels":
        y["click"][5] = np.nan
    elif what == "weights":
        weights["rating"][5] = np.inf
    elif what == "tower":
        model.towers["rating"].dense["1"].bias.assign([np.nan])
    else:
        features = {"user": CategoricalFeature(USERS, embedding_dim=4)}
        model = make_model(features=features, compile=False)
        features["user"].set_weights(
            [
                each * np.nan if each.dtype.kind == "f" else each
                for each in features["user"].get_weights()
            ]
        )
        model.compile("sgd", run_eagerly=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        model.train_on_batch(
            {name: x[name] for name in model.features}, y, weights
        )


def test_labels_of_weight_zero_may_be_anything():
    model = make_small_model()
    x, y = make_data()
    y["click"][::2] = np.nan
    weights = {
        "click": np.isfinite(y["click"]).astype("float32"),
        "rating": np.ones(NUM_ROWS, "float32"),
    }
    x = {"age": x["age"]}
    found = model.evaluate(
        x,
        y,
        sample_weight=weights,
        batch_size=NUM_ROWS,
        verbose=0,
        return_dict=True,
    )
    p = model.predict(x, verbose=0)["click"][1::2, 0].astype("float64")
    known = y["click"][1::2]
    expected = -(known * np.log(p) + (1 - known) * np.log(1 - p)).mean()
    np.testing.assert_allclose(found["click_loss"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["comet", "hash"])
def test_saved_model_predicts_and_resumes_equally(gate, tmp_path):
    permutation = keras_comet.ExpertPermutation(5)
    permutation.assignment.assign([[4, 2, 0, 1, 3]])
    if gate == "comet":
        gates = {
            task: keras_comet.COMETGate(5, permutation=permutation)
            for task in ("click", "rating")
        }
    else:
        gates = {task: GATES[gate]() for task in ("click", "rating")}
    model = make_model(gates=gates)
    x, y = make_data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for task, expected in model.predict(x, verbose=0).items():
        np.testing.assert_array_equal(
            again.predict(x, verbose=0)[task], expected
        )
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    losses = [
        each.fit(x, y, shuffle=False, epochs=3, verbose=0).history["loss"]
        for each in (model, again)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    if gate == "comet":
        rebuilt = again.mixture.gates
        assert rebuilt["click"].permutation is rebuilt["rating"].permutation


@pytest.mark.parametrize("way", ["checkpoint", "weights"])
def test_weights_land_in_tasks_and_features_of_the_same_name(way, tmp_path):
    def make(names, seed):
        model = make_model(
            features={
                name: CategoricalFeature([0, 1, 2], embedding_dim=3)
                for name in names
            },
            gates={name: GATES["comet"]() for name in names},
            tasks=[Task(name, "mse") for name in names],
        )
        random = np.random.default_rng(seed)
        for weight in model.trainable_weights:
            weight.assign(random.normal(size=weight.shape))
        return model

    saved, other = make(["click", "buy"], 1), make(["buy", "click"], 2)
    if way == "checkpoint":
        tf.train.Checkpoint(model=saved).write(str(tmp_path / "m"))
        status = tf.train.Checkpoint(model=other).read(str(tmp_path / "m"))
        status.assert_existing_objects_matched().assert_nontrivial_match()
    else:
        saved.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    for name in ("click", "buy"):
        for of_saved, of_other in (
            (saved.features[name], other.features[name]),
            (saved.mixture.gates[name], other.mixture.gates[name]),
            (saved.towers[name], other.towers[name]),
        ):
            for expected, found in zip(
                of_saved.get_weights(), of_other.get_weights(), strict=True
            ):
                np.testing.assert_array_equal(found, expected)


def test_weights_of_other_tasks_are_an_error(tmp_path):
    make_model().save_weights(tmp_path / "m.weights.h5")
    other = make_model(
        gates={task: GATES["comet"]() for task in ("click", "buy")},
        tasks=[Task(task, "mse") for task in ("click", "buy")],
    )
    with pytest.raises((ValueError, KeyError)):
        other.load_weights(tmp_path / "m.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_reloaded_under_another_policy_it_keeps_its_own(given, tmp_path):
    if given:
        model = make_model(compile=False, dtype="mixed_bfloat16")
    else:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        model = make_model(compile=False)
        keras.mixed_precision.set_global_policy("float32")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, again):
        for layer in (
            each,
            each.mixture,
            *each.towers.values(),
            *each.towers["click"].dense.values()[:-1],
        ):
            assert layer.compute_dtype == "bfloat16"
    x, _ = make_data()
    for task, expected in model.predict(x, verbose=0).items():
        found = again.predict(x, verbose=0)[task]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_config_holds_the_arguments_as_given():
    model = make_model(
        "hash_any",
        compile=False,
        name="ranker",
        trainable=False,
        dtype="mixed_bfloat16",
        dispatch="sparse",
    )
    again = MultiGateRecommender.from_config(model.get_config())
    for each in (model, again):
        config = each.get_config()
        assert config["hash_feature"] is None
        assert config["tower_units"] == [4]
        assert (config["name"], config["dispatch"]) == ("ranker", "sparse")
        assert config["trainable"] is False
        assert not each.trainable_weights
        assert each.dtype_policy.name == "mixed_bfloat16"


def test_frozen_layers_are_frozen_when_loaded(tmp_path):
    def freeze(model):
        model.features["user"].trainable = False
        model.mixture.gates["rating"].trainable = False
        model.mixture.experts[1].trainable = False
        model.towers["click"].trainable = False
        model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)

    experts = [keras.layers.Dense(6, "relu") for _ in range(5)]
    model = make_model(experts=experts)
    freeze(model)
    x, y = make_data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    # Of 28: one table, four of the gate, two of the expert, four of the tower.
    assert len(again.trainable_weights) == len(model.trainable_weights) == 17

    def frozen_weights(model):
        layers = (
            model.features["user"],
            model.mixture.gates["rating"],
            model.mixture.experts[1],
            model.towers["click"],
        )
        kernels = [w for each in layers for w in each.non_trainable_weights]
        return [np.array(w) for w in kernels if "recent" not in w.name]

    before = frozen_weights(again)
    again.fit(x, y, verbose=0)
    for old, new in zip(before, frozen_weights(again), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("gate", ["comet", "hash"])
def test_each_feature_is_looked_up_once(gate):
    model = make_model(gate)
    calls = []
    for name, feature in model.features.items():
        if isinstance(feature, CategoricalFeature):

            def lookup(ids, name=name, before=feature.lookup):
                calls.append(name)
                return before(ids)

            feature.lookup = lookup
    x, _ = make_data()
    model({name: tf.constant(values) for name, values in x.items()})
    assert calls == ["user", "item"]


def test_features_and_gates_know_whether_the_model_trains():
    model = make_model(
        "hash",
        features={
            "user": CategoricalFeature(USERS, embedding_dim=4, unknown_rate=1.0)
        },
        compile=False,
    )
    x = {"user": tf.constant(USERS)}
    with capture_calls() as calls:
        served = model(x, training=False)["click"].numpy()
        trained = model(x, training=True)["click"].numpy()
    assert (served != trained).any()
    # A hash gate reads the true ids in training too.
    weights = [each for gate, each in calls if gate.task == "click"]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert len(np.unique(np.argmax(weights[0], axis=1))) > 1


def test_names_may_be_any_text(tmp_path):
    tasks, users = ["to buy", "à/la: carte"], "the user"
    model = make_model(
        features={users: CategoricalFeature(USERS, embedding_dim=4)},
        gates={task: GATES["softmax"]() for task in tasks},
        tasks=[Task(task, "mse", ["mae"]) for task in tasks],
    )
    x = {users: np.array(USERS)}
    y = {task: np.ones(len(USERS), "float32") for task in tasks}
    # Not in eager mode, as it is nodes of graphs that have names.
    history = model.fit(x, y, verbose=0).history
    names = [node_name(task) for task in tasks]
    assert names == ["to_buy", "x__la__carte"]
    expected = {f"{name}_{each}" for name in names for each in ("loss", "mae")}
    assert set(history) == {"loss", *expected}
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    found = again(x)
    assert list(found) == tasks
    for task, values in model(x).items():
        np.testing.assert_array_equal(found[task], values)
    signature = find_input_signature(model, None)
    assert signature == {users: tf.TensorSpec([None], tf.string, "the_user")}


def test_weights_file_moves_between_models(tmp_path):
    model, other = make_model(), make_model()
    x, _ = make_data()
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    for task, expected in model.predict(x, verbose=0).items():
        np.testing.assert_array_equal(
            other.predict(x, verbose=0)[task], expected
        )


@pytest.mark.slow
def test_trains_from_tf_data_with_stacked_experts_and_three_tasks():
    x, y = make_data()
    model = make_model(
        experts=keras_comet.StackedDenseExperts(5, [8, 6], "relu", dropout=0.2),
        gates={t: GATES["comet"]() for t in ("click", "rating", "genre")},
        tasks=[
            Task("click", "binary_crossentropy", activation="sigmoid"),
            Task("rating", "mse", missing_label=0.0),
            Task(
                "genre",
                "sparse_categorical_crossentropy",
                ["accuracy"],
                activation="softmax",
                units=4,
                missing_label=-1,
            ),
        ],
    )
    y["genre"] = np.arange(NUM_ROWS) % 5 - 1
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    history = model.fit(data, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.predict(data, verbose=0)["genre"].shape == (NUM_ROWS, 4)


def test_hash_gate_routes_by_the_chosen_feature():
    model = make_model("hash_any", hash_feature="item")
    x, _ = make_data()
    weights = keras_comet.routing_weights(model, x)["click"]
    for item in np.unique(x["item"]):
        rows = weights[x["item"] == item]
        np.testing.assert_array_equal(
            rows, np.broadcast_to(rows[0], rows.shape)
        )


def test_mixed_precision_predicts_float32():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = make_model()
    x, y = make_data()
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    assert model.predict(x, verbose=0)["click"].dtype == np.float32


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"gates": {"click": GATES["comet"]()}}, "same names"),
        ({"tasks": []}, "same names"),
        ({"tasks": ["click", "rating"]}, "list of keras_comet.Task"),
        (
            {
                "gates": {t: GATES["softmax"]() for t in ("a b", "a_b")},
                "tasks": [Task(t, "mse") for t in ("a b", "a_b")],
            },
            "characters that no graph accepts",
        ),
        (
            {"gates": {t: keras.layers.Dense(5) for t in ("click", "rating")}},
            "must be a keras_comet.Gate.*'click'",
        ),
        ({"features": {}}, "at least one feature"),
        (
            {"features": {"age": keras.layers.Dense(2)}},
            "must be a layer of keras_comet.*'age'",
        ),
        (
            {
                "features": {"age": NumericFeature()},
                "gates": {t: GATES["hash"]() for t in ("click", "rating")},
            },
            "needs a categorical feature",
        ),
        (
            {
                "gates": {
                    t: keras_comet.HashGate(5, num_ids=3)
                    for t in ("click", "rating")
                }
            },
            "num_ids=11",
        ),
        (
            {
                "gates": {
                    t: keras_comet.TopKGate(4) for t in ("click", "rating")
                }
            },
            "num_experts=4",
        ),
    ],
)
def test_bad_construction_raises(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_model(**kwargs)


def test_bad_calls_raise():
    model = make_model()
    x, y = make_data()
    with pytest.raises(ValueError, match="'user' takes.*shape \\(48, 2\\)"):
        model({**x, "user": np.stack([x["user"], x["user"]], axis=1)})
    with pytest.raises(ValueError, match="missing: \\['age'\\]"):
        model({"user": x["user"], "item": x["item"]})
    with pytest.raises(ValueError, match="dict with the features.*'age'"):
        model(x["age"])
    with pytest.raises(ValueError, match="one entry for each task"):
        model.fit(x, {"click": y["click"], "ratings": y["rating"]}, verbose=0)
    with pytest.raises(ValueError, match="belong to the tasks"):
        model.compile("adam", loss="mse")


def test_summary_names_the_parts(capsys):
    make_model().summary(print_fn=print)
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("features", "towers"))
    assert "layer_dict" not in printed


@pytest.mark.slow
def test_compile_arguments_survive_saving(tmp_path):
    model = make_model(compile=False)
    model.compile("sgd", steps_per_execution=2)
    x, y = make_data()
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(again.optimizer, keras.optimizers.SGD)
    if KERAS_3:
        assert again.steps_per_execution == 2
