"""Tables, bars and notes of a benchmark, as files."""

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import Ratio
from benchmarks.measure import Timing


@dataclasses.dataclass(frozen=True)
class Bar:
    """A number to reach, and the number that was measured.

    Args:
        case: str. What was measured.
        quantity: str. Which number of it.
        relation: str. `">="` or `"<="`.
        limit: float. The number to reach.
        measured: float.
        rounds: int. How many rounds the measurement rests on.
        processor: float. The number by the time of all processors instead of
            the clock, where it is a ratio of times. Defaults to `None`.
    """

    case: str
    quantity: str
    relation: str
    limit: float
    measured: float
    rounds: int
    processor: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the measured number is on the right side of the limit."""
        if self.relation == ">=":
            return self.measured >= self.limit
        return self.measured <= self.limit


class Report:
    """Collects tables and bars of one program and writes them.

    Every table, bar and note is written at once, so that a later case that
    fails takes none with it.

    Args:
        name: str. Name of the program; the files are called after it.
        directory: path. Where to write.
        smoke: bool. Whether the sizes are too small for the bars to hold.
    """

    def __init__(self, name: str, directory: pathlib.Path, smoke: bool) -> None:
        self.name = name
        self.directory = directory
        self.smoke = smoke
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.bars: list[Bar] = []
        self.notes: list[str] = []

    def add(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to the table of this title, and prints them."""
        known = self.tables.setdefault(title, [])
        known.extend(dict(row) for row in rows)
        print(f"\n{title}\n{to_markdown(rows)}", flush=True)
        self.save()

    def add_timings(
        self, title: str, timings: Mapping[str, Timing], **columns: Any
    ) -> None:
        """Appends one row for each function that was timed."""
        self.add(
            title,
            [
                {
                    **columns,
                    "method": name,
                    "ms": round(1e3 * timing.median, 4),
                    "lower quartile": round(1e3 * timing.lower, 4),
                    "upper quartile": round(1e3 * timing.upper, 4),
                    "CPU ms": round(1e3 * timing.processor, 4),
                    "rounds": timing.rounds,
                }
                for name, timing in timings.items()
            ],
        )

    def require(
        self,
        case: str,
        quantity: str,
        relation: str,
        limit: float,
        measured: float | Ratio,
        rounds: int = 0,
    ) -> None:
        """Appends a bar; see `Bar`. A ratio brings its number of rounds."""
        bar = Bar(case, quantity, relation, limit, measured, rounds)
        if isinstance(measured, Ratio):
            bar = dataclasses.replace(
                bar,
                measured=measured.clock,
                rounds=measured.rounds,
                processor=measured.processor,
            )
        self.bars.append(bar)
        self.save()

    def note(self, text: str) -> None:
        """Appends a sentence, and prints it."""
        self.notes.append(text)
        print(text, flush=True)
        self.save()

    def save(self) -> None:
        """Writes `<name>.json` and `<name>.md`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = {
            "program": self.name,
            "smoke": self.smoke,
            "environment": describe_environment(),
            "tables": self.tables,
            "bars": [dataclasses.asdict(bar) for bar in self.bars],
            "notes": self.notes,
        }
        path = self.directory / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=2) + "\n")
        parts = [f"# {self.name}", describe_environment_in_words()]
        if self.bars:
            parts += ["## Bars", bars_to_markdown(self.bars)]
        for title, rows in self.tables.items():
            parts += [f"## {title}", to_markdown(rows)]
        parts += self.notes
        text = "\n\n".join(parts) + "\n"
        path.with_suffix(".md").write_text(text)


def load_bars(path: pathlib.Path) -> list[Bar]:
    """Reads the bars back that `Report.save` wrote."""
    return [Bar(**bar) for bar in json.loads(path.read_text())["bars"]]


def bars_to_markdown(bars: Sequence[Bar]) -> str:
    """The table of bars: case, bar, measured, reached."""
    return to_markdown(
        [
            {
                "case": bar.case,
                "bar": f"{bar.quantity} {bar.relation} {bar.limit:g}",
                "measured": f"{bar.measured:.2f}",
                "reached": "yes" if bar.reached else "no",
                "by CPU time": (
                    "" if bar.processor is None else f"{bar.processor:.2f}"
                ),
                "rounds": bar.rounds,
            }
            for bar in bars
        ]
    )


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with the keys of the first row as columns, numbers short."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        lines.append(
            [f"{x:.4g}" if isinstance(x, float) else str(x) for x in cells]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def describe_environment_in_words() -> str:
    """One line about the environment."""
    return ", ".join(f"{k} {v}" for k, v in describe_environment().items())
