"""Plots of the tables."""

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def plot_rows(
    path: pathlib.Path,
    rows: Sequence[Mapping[str, Any]],
    x: str,
    title: str,
    y: str = "ms",
) -> None:
    """Draws one line for each method, both axes logarithmic.

    Args:
        path: path. The PNG file.
        rows: list of dict with the keys `x`, `y` and `"method"`.
        x: str. Key of the horizontal axis.
        title: str. Title of the plot.
        y: str. Key of the vertical axis. Defaults to `"ms"`.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        axis.plot(
            [row[x] for row in own],
            [row[y] for row in own],
            marker="o",
            label=method,
        )
    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=title)
    ticks = sorted({row[x] for row in rows})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_training(
    path: pathlib.Path,
    milliseconds: Mapping[str, Sequence[float]],
    cardinality: Mapping[str, Sequence[float]],
    k: int,
) -> None:
    """Draws time per step and cardinality over epochs.

    Args:
        path: path. The PNG file.
        milliseconds: dict from dispatch to the time of a step, by epoch.
        cardinality: dict from task to experts per row, by epoch.
        k: int. The cap on the cardinality once the gate is saturated.
    """
    figure, (times, counts) = plt.subplots(
        1, 2, figsize=(10, 4), layout="constrained"
    )
    for name, values in milliseconds.items():
        times.plot(range(1, 1 + len(values)), values, marker="o", label=name)
    times.set(xlabel="epoch", ylabel="ms per training step", ylim=(0, None))
    for name, values in cardinality.items():
        counts.plot(range(1, 1 + len(values)), values, marker="o", label=name)
    counts.axhline(k, color="black", linewidth=0.8)
    counts.set(xlabel="epoch", ylabel="experts per row", ylim=(0, None))
    for axis in (times, counts):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
