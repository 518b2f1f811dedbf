"""Tells from the code of tests what they cost: processes, shared set-ups."""

import functools
import inspect
import types

import pytest

# From the longest to the shortest.
_ORDER = ("slow", "subprocess", "xdist_group")


def mark_by_cost(item):
    """Adds the markers `subprocess` and `xdist_group` to a collected test."""
    fixtures = [
        definition
        for definitions in item._fixtureinfo.name2fixturedefs.values()
        for definition in definitions
    ]
    functions = [item.function, *(each.func for each in fixtures)]
    if any(starts_process(function) for function in functions):
        item.add_marker("subprocess")
    for each in fixtures:
        if each.scope != "function" and is_ours(each.func):
            # What tests share is set up in one process only.
            item.add_marker(pytest.mark.xdist_group(each.func.__module__))


def rank(item):
    """Sorts tests: of two processes, none waits long for the other's last."""
    markers = [item.get_closest_marker(name) for name in _ORDER]
    return [marker is None for marker in markers]


@functools.cache
def starts_process(function):
    """Whether a function, or one of the tests that it names, starts one."""
    waiting, seen = [function], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for code in _codes(current.__code__):
            if {"subprocess", "run"} <= set(code.co_names):
                return True
            for name in code.co_names:
                waiting += _functions(current.__globals__.get(name))
    return False


def _codes(code):
    """The code of a function, and of those that it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _functions(value):
    """What can be called of a value: of the tests only."""
    if not is_ours(value):
        return []
    values = vars(value).values() if inspect.isclass(value) else [value]
    return [each for each in values if inspect.isfunction(each)]


def is_ours(value):
    """Whether a function or a class is defined by the tests."""
    return (getattr(value, "__module__", None) or "").startswith("tests.")
