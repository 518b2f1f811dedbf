import pytest

from benchmarks.measure import Timing
from benchmarks.measure import check_agreement
from benchmarks.measure import fastest
from benchmarks.measure import interleave
from benchmarks.measure import ratio


def timing(median, processor=1.0, rounds=3):
    return Timing(0.0, median, 9.0, processor, rounds)


def slow(calls, name):
    """Records its name; long enough to be timed one call at a time."""

    def call():
        calls.append(name)
        sum(range(400_000))

    return call


def test_every_round_calls_every_function_once():
    calls = []
    timings = interleave({n: slow(calls, n) for n in "abc"}, rounds=4)
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = [calls[i : i + 3] for i in range(6, len(calls), 3)]
    assert [sorted(each) for each in rounds] == [["a", "b", "c"]] * 4
    assert {each.rounds for each in timings.values()} == {4}


def test_too_slow_a_comparison_stops_after_five_rounds():
    calls = []
    timings = interleave({"a": slow(calls, "a")}, rounds=9, longest=0.0)
    assert timings["a"].rounds == 5


def test_quick_functions_are_timed_many_calls_at_a_time():
    calls = []
    interleave({"a": lambda: calls.append(None)}, rounds=1)
    assert len(calls) > 100


def test_ratio_is_of_medians_and_of_processor_time():
    timings = {"slow": timing(6.0, 8.0), "fast": timing(2.0, 2.0, rounds=5)}
    found = ratio(timings, "slow", "fast")
    assert (found.clock, found.processor, found.rounds) == (3.0, 4.0, 5)


def test_fastest_ignores_names_that_were_not_timed():
    timings = {"a": timing(3.0), "b": timing(2.0), "c": timing(1.0)}
    assert fastest(timings, "a", "b", "absent") == "b"


def test_agreement_is_relative_to_the_largest_value():
    check_agreement({"a": lambda: [1000.0], "b": lambda: [1000.05]})
    with pytest.raises(ValueError, match="'b' differs by 1.0e-03"):
        check_agreement({"a": lambda: [1000.0], "b": lambda: [1001.0]})


def test_nan_agrees_with_nothing():
    with pytest.raises(ValueError, match="'b' differs"):
        check_agreement({"a": lambda: [1.0], "b": lambda: [float("nan")]})
