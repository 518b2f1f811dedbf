"""The table of a study: mean and standard error of every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from studies.records import Record

BASELINE = "one"


def to_markdown(groups: Mapping[str, Sequence[Record]], score: str) -> str:
    """Writes the table.

    Differences are to the arm "one", seed by seed. Seconds are those to the
    best epoch.

    Args:
        groups: dict from arm to its records at its best rate.
        score: str. What the scores are.

    Returns:
        The table in Markdown, the smallest mean validation loss first.
    """
    header = (
        "arm",
        "rate",
        "seeds",
        "validation loss",
        "test loss",
        "difference to one",
        score,
        "experts a row",
        "within k",
        "dead",
        "epochs to best",
        "seconds to best",
    )
    with_agreement = any(
        not math.isnan(each.agreement)
        for records in groups.values()
        for each in records
    )
    if with_agreement:
        header = (*header, "agreement")
    baseline = {each.seed: each.test_loss for each in groups.get(BASELINE, ())}
    rows = []
    for arm, records in sorted(
        groups.items(),
        key=lambda item: np.mean([each.validation_loss for each in item[1]]),
    ):
        differences = [
            each.test_loss - baseline[each.seed]
            for each in records
            if each.seed in baseline
        ]
        line = (
            arm,
            f"{records[0].learning_rate:.2g}",
            str(len(records)),
            mean_and_error([each.validation_loss for each in records]),
            mean_and_error([each.test_loss for each in records]),
            "" if arm == BASELINE else mean_and_error(differences, sign="+"),
            mean_and_error([each.score for each in records]),
            _mean([each.cardinality for each in records], 2),
            _mean([each.within_k for each in records], 3),
            _mean([each.dead_experts for each in records], 1),
            _mean([each.best_epoch for each in records], 1),
            _mean([seconds_to_best(each) for each in records], 0),
        )
        if with_agreement:
            line = (
                *line,
                mean_and_error([each.agreement for each in records]),
            )
        rows.append(line)
    return format_table(header, rows)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table in Markdown.

    Args:
        header: list of str.
        rows: list of cells, as many in each as in the header.

    Returns:
        The lines of the table, without an end of the last one.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_error(values: Sequence[float], sign: str = "") -> str:
    """Writes the mean and its standard error.

    Args:
        values: list of float, one for each seed.
        sign: str. Of the mean, as in format strings. Defaults to `""`.

    Returns:
        Text such as `0.2580 ± 0.0031`; the error is left out for fewer than
        two values.
    """
    if not len(values) or np.isnan(values).all():
        return ""
    mean = f"{np.mean(values):{sign}.4f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {standard_error(values):.4f}"


def standard_error(values: Sequence[float]) -> float:
    """Computes the standard error of the mean, from n - 1 degrees."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def seconds_to_best(record: Record) -> float:
    """Computes the part of the training time up to the best epoch."""
    return record.seconds * record.best_epoch / record.epochs


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f}"
