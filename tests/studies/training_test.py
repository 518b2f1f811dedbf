import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import datasets
from studies.protocol import Run
from studies.search_space import draw_setting
from studies.study import Arm
from studies.study import Objective
from studies.study import Study
from studies.training import BestWeights
from studies.training import make_loss
from studies.training import train
from studies.training import train_trial
from studies.trials import TrialRun
from studies.tuned_arms import tuned_arms


@pytest.fixture
def line():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("counts_from", "best", "num_epochs"), [(1, 2, 4), (3, 5, 7)]
)
def test_best_weights_stop_and_come_back(line, counts_from, best, num_epochs):
    losses = [3.0, 1.0, 2.0, 2.0, 1.5, 2.0, 3.0, 0.0]
    seen = []

    def validate():
        seen.append(line.get_weights()[0].copy())
        return losses[len(seen) + counts_from - 2]

    keep = BestWeights(validate, patience=2, counts_from=counts_from)
    x = np.ones((4, 1))
    line.fit(x, 3 * x, epochs=8, callbacks=[keep], verbose=0)
    assert (keep.epoch, keep.num_epochs) == (best, num_epochs)
    assert keep.loss == losses[best - 1]
    np.testing.assert_array_equal(
        line.get_weights()[0], seen[best - counts_from]
    )


def test_weights_before_the_training_may_be_the_best(line):
    losses = iter([1.0, 2.0, 3.0])
    keep = BestWeights(lambda: next(losses), patience=2, counts_from=0)
    before = line.get_weights()[0].copy()
    x = np.ones((4, 1))
    line.fit(x, 3 * x, epochs=8, callbacks=[keep], verbose=0)
    assert (keep.epoch, keep.num_epochs, keep.loss) == (0, 2, 1.0)
    np.testing.assert_array_equal(line.get_weights()[0], before)


def test_best_weights_survive_losses_that_are_not_numbers(line):
    keep = BestWeights(lambda: float("nan"), patience=1, counts_from=1)
    line.fit(np.ones((4, 1)), np.ones(4), callbacks=[keep], verbose=0)
    assert keep.epoch == 1


@pytest.fixture
def toy():
    data = datasets.synthetic_multitask(200, num_features=4)
    columns = {
        name: datasets.Split({"x": split.features["x"]}, split.labels)
        for name, split in (
            ("train", data.train),
            ("validation", data.validation),
            ("test", data.test),
        )
    }

    def make_models(data, arm):
        x = keras.Input((4,), name="x")
        mixture = keras_comet.MixtureOfExperts(
            keras_comet.StackedDenseExperts(arm.num_experts, 3),
            arm.make_gate(),
        )
        mixed = mixture(x)
        outputs = {
            "task_0": keras.layers.Dense(1, "sigmoid", name="task_0")(mixed),
            "task_1": keras.layers.Dense(1, name="task_1")(mixed),
        }
        return {("task_0", "task_1"): keras.Model({"x": x}, outputs)}

    return Study(
        name="toy",
        load=lambda seed, smoke: datasets.MultitaskDataset(
            "toy", **columns, vocabularies={}
        ),
        make_models=make_models,
        objectives=[
            Objective("task_0", "binary", 0.5),
            Objective("task_1", "regression", missing=float("nan")),
        ],
        arms={"top_k": Arm(4, lambda: keras_comet.TopKGate(4, k=3))},
        tuned_arms=tuned_arms(4, k=3),
        batch_size=16,
    )


@pytest.mark.slow
def test_train_fills_a_record(toy):
    record = train(toy, Run("top_k", 1e-2, 1), smoke=True)
    assert (record.study, record.arm, record.seed) == ("toy", "top_k", 1)
    assert record.epochs == 2
    assert 0.0 < record.test_loss < 4.0
    assert (record.cardinality, record.within_k) == (3.0, 0.0)
    assert 0 <= record.dead_experts <= 1


@pytest.mark.slow
def test_trial_searches_and_has_what_was_drawn(toy, monkeypatch):
    searches = []
    search = keras_comet.search.LocalSearchOptimizer.search
    monkeypatch.setattr(
        keras_comet.LocalSearchOptimizer,
        "search",
        lambda *args: searches.append(args) or search(*args),
    )
    trial = train_trial(toy, TrialRun("comet_search", 3), smoke=True)
    tuned = toy.tuned_arms["comet_search"].tuned
    # A smoke test searches in its first epoch.
    assert trial.setting == draw_setting(tuned, 3)._replace(search_epochs=1)
    assert (trial.study, trial.arm, trial.number) == ("toy", "comet_search", 3)
    assert trial.epochs == 2
    assert len(searches) == 2
    for total, of_tasks in (
        (trial.validation_loss, trial.validation_losses),
        (trial.test_loss, trial.test_losses),
    ):
        parts = dict(each.split("=") for each in of_tasks.split())
        assert total == pytest.approx(
            0.5 * float(parts["task_0"]) + float(parts["task_1"]), rel=1e-4
        )


@pytest.mark.slow
def test_sinkhorn_ends_with_a_permutation(toy):
    trial = train_trial(toy, TrialRun("top_k_sinkhorn", 3), smoke=True)
    # The best weights are from after the search.
    assert trial.best_epoch > trial.search_epochs
    assert trial.cardinality == 3.0


def test_loss_of_missing_labels_is_a_mean_over_the_others():
    objective = Objective("a", "regression", missing=float("nan"))
    labels = np.array([[1.0], [np.nan], [4.0]], "float32")
    loss = make_loss(objective)(tf.constant(labels), tf.zeros((3, 1)))
    assert float(loss) == (1.0 + 16.0) / 2
    assert (
        float(make_loss(objective)(tf.constant(labels[1:2]), tf.zeros(1))) == 0
    )
