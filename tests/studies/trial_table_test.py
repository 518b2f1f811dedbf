import dataclasses

from studies.trial_table import narrow_to_markdown
from studies.trial_table import search_to_markdown
from studies.trial_table import trials_to_markdown
from tests.studies.trials_test import trial


def cells(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def test_the_best_tenth_is_chosen_by_validation_and_reported_by_test():
    trials = [
        trial("a", number, 1.0 - 0.01 * number, 0.01 * number)
        for number in range(20)
    ] + [trial("b", 0, 0.7, 0.3)]
    header, _, first, second = cells(trials_to_markdown(trials, "AUC"))
    assert header[6] == "AUC"
    # Of one trial 0.01 times the mean of 0 to 19; the best two are 18, 19.
    assert first[:6] == [
        "b",
        "1",
        "0.7000",
        "0.3000",
        "0.3000",
        "0.3000",
    ]
    assert second[:6] == [
        "a",
        "20",
        "0.8150 ± 0.0050",
        "0.1850 ± 0.0050",
        "0.0950",
        "0.1900",
    ]


def test_search_is_compared_trial_by_trial():
    off = [trial("top_k", n, 0.1 * n, 0.2 + 0.1 * n) for n in range(3)]
    on = [
        dataclasses.replace(
            each, arm="top_k_search", test_loss=each.test_loss - 0.1
        )
        for each in off
    ]
    _, _, line = cells(search_to_markdown([*off, *on, trial("comet", 0)]))
    assert line[:4] == [
        "top_k_search",
        "3",
        "-0.1000 ± 0.0000",
        "+0.0000 ± 0.0000",
    ]


def test_narrow_rates_choose_among_fewer_trials():
    rates = [3e-5, 1e-4, 4e-4, 6e-4]
    trials = [
        dataclasses.replace(
            trial("one", n, 1.0 - 0.1 * n, 0.1 * n), learning_rate=rate
        )
        for n, rate in enumerate(rates)
    ]
    _, _, line = cells(narrow_to_markdown(trials))
    assert line == ["one", "2", "0.2000", "0.3000"]
