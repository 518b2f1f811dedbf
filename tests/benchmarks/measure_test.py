import pytest

from benchmarks import measure
from benchmarks.measure import Timing
from benchmarks.measure import check_agreement
from benchmarks.measure import fastest
from benchmarks.measure import interleave
from benchmarks.measure import ratio


def timing(median, processor=1.0, rounds=3):
    return Timing(0.0, median, 9.0, processor, rounds)


class Clock:
    """Stands still but for what the timed functions take."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def process_time(self):
        return 2.0 * self.now

    def function(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    return clock


def test_every_round_calls_every_function_once(clock):
    functions = {name: clock.function(name, 0.25) for name in "abc"}
    timings = interleave(functions, rounds=4)
    assert clock.calls[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = [clock.calls[i : i + 3] for i in range(6, 18, 3)]
    assert len(clock.calls) == 18
    assert [sorted(each) for each in rounds] == [["a", "b", "c"]] * 4
    assert timings["b"] == Timing(0.25, 0.25, 0.25, 0.5, 4)


def test_order_changes_from_round_to_round(clock):
    functions = {name: clock.function(name, 0.25) for name in "abc"}
    interleave(functions, rounds=10)
    rounds = {tuple(clock.calls[i : i + 3]) for i in range(6, 36, 3)}
    assert len(rounds) > 2


def test_too_slow_a_comparison_stops_after_five_rounds(clock):
    timings = interleave({"a": clock.function("a", 60.0)}, rounds=9)
    assert timings["a"].rounds == 5


def test_quick_functions_are_timed_several_calls_at_a_time(clock):
    timings = interleave({"a": clock.function("a", 0.0009765625)}, rounds=3)
    assert len(clock.calls) == 2 + 3 * 5
    assert timings["a"].median == 0.0009765625


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
