import dataclasses
import random

import pytest

from studies.records import read_records
from studies.search_space import draw_setting
from studies.trials import Setting
from studies.trials import Trial
from studies.trials import TrialRun
from studies.trials import best_trials
from studies.trials import remaining_trials
from tests.studies.killed import kill_and_go_on

ALL = ("learning_rate", "gamma", "entropy_weight", "search_epochs")

# A study whose losses are known and whose trials take no time.
TOY = """
import math, pathlib, sys, time, types
from studies.command import run_trials
from studies.search_space import draw_setting
from studies.trials import Trial
study = types.SimpleNamespace(name="toy")
def train_trial(study, run, smoke):
    time.sleep(float(sys.argv[2]))
    setting = draw_setting(("learning_rate", "gamma"), run.number)
    loss = abs(math.log(setting.learning_rate / 1e-3)) + 0.1 * len(run.arm)
    return Trial("toy", *run, *setting, loss, 2 * loss, "a=1", "a=2", .5, 2.,
                 1., 0, 9., 9, 3)
sys.modules["studies.training"] = types.SimpleNamespace(
    train_trial=train_trial)
run_trials(study, ["a", "bc"], pathlib.Path(sys.argv[1]), 4, 1, False)
"""


def trial(arm, number, validation_loss=0.5, test_loss=0.5, **values):
    """A trial that took 10 epochs."""
    return Trial(
        "toy",
        arm,
        number,
        *Setting(),
        validation_loss,
        test_loss,
        "a=1",
        "a=2",
        0.5,
        2.0,
        1.0,
        0,
        10.0,
        10,
        3,
        **values,
    )


def test_killed_search_goes_on_to_the_same_trials(tmp_path):
    texts = kill_and_go_on(TOY, tmp_path, "toy,a,0")
    assert texts.after == texts.whole
    trials = read_records(tmp_path / "parts.csv", Trial)
    assert len(trials) == 8
    # Other settings after the resume than before it, the same in both arms.
    rates = {each.number: each.learning_rate for each in trials}
    assert len(set(rates.values())) == 4
    for each in trials:
        assert each.learning_rate == rates[each.number]
        assert each.entropy_weight == 0.0


def test_arms_draw_the_same_of_what_both_tune():
    for number in range(20):
        setting = draw_setting(ALL, number)
        assert draw_setting(ALL[:1], number) == Setting(setting.learning_rate)
        assert draw_setting(ALL[:3], number) == setting._replace(
            search_epochs=0
        )
        searched = draw_setting(("learning_rate", "search_epochs"), number)
        assert searched.search_epochs == setting.search_epochs
        assert 1e-4 <= setting.learning_rate <= 5e-3
    assert draw_setting((), 3) == Setting()


def test_what_is_left_goes_trial_by_trial():
    runs = remaining_trials(["a", "b"], [trial("a", 0), trial("b", 1)], 2)
    assert runs == [TrialRun("b", 0), TrialRun("a", 1)]


def test_the_choice_sees_validation_losses_alone():
    losses = [0.4, float("nan"), 0.1, 0.3, 0.2]
    trials = [trial("a", n, loss) for n, loss in enumerate(losses)]
    assert [each.number for each in best_trials(trials, 0.4)] == [2, 4]
    for seed in range(20):
        generator = random.Random(seed)
        others = [
            dataclasses.replace(
                each,
                test_loss=generator.random(),
                test_losses=f"a={generator.random()}",
                score=generator.random(),
            )
            for each in trials
        ]
        chosen = [each.number for each in best_trials(others, 1.0)]
        assert chosen == [2, 4, 3, 0, 1]


@pytest.mark.parametrize(
    ("share", "count"), [(0.1, 1), (0.5, 2), (0.51, 3), (1.0, 4)]
)
def test_a_share_is_rounded_up(share, count):
    trials = [trial("a", number) for number in range(4)]
    assert len(best_trials(trials, share)) == count
