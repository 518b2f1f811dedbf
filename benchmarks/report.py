"""What a benchmark found: tables, bars, files and the command line."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import resource
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import Ratio
from benchmarks.measure import Timing

# What one process may take, so that others on the machine survive it.
_SHARE_OF_MEMORY = 0.6


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
        measured: float,
        rounds: int,
    ) -> None:
        """Appends a bar, see `Bar`."""
        self._append(Bar(case, quantity, relation, limit, measured, rounds))

    def require_ratio(
        self,
        case: str,
        quantity: str,
        relation: str,
        limit: float,
        measured: Ratio,
    ) -> None:
        """Appends a bar on a ratio of times."""
        self._append(
            Bar(
                case,
                quantity,
                relation,
                limit,
                measured.clock,
                measured.rounds,
                measured.processor,
            )
        )

    def _append(self, bar: Bar) -> None:
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


def run_program(
    name: str,
    document: str,
    run: Callable[[Report, int, bool], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Reads the command line, runs one benchmark and writes its report.

    Args:
        name: str. Name of the program.
        document: str. Docstring of the program, for --help.
        run: function of the report, the number of rounds and whether to run
            tiny cases only.
        arguments: list of str. Defaults to `None`: the command line.
    """
    parser = argparse.ArgumentParser(description=document.partition("\n")[0])
    add_arguments(parser)
    args = parser.parse_args(arguments)
    limit_memory()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    report = Report(name, args.output_dir, args.smoke)
    run(report, 2 if args.smoke else args.rounds, args.smoke)
    report.save()
    if report.bars:
        print(f"\n{bars_to_markdown(report.bars)}")


def limit_memory() -> None:
    """Lets this process fail rather than the machine run out of memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = int(_SHARE_OF_MEMORY * total)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all programs share."""
    parser.add_argument("--smoke", action="store_true", help="tiny, seconds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/benchmarks"),
    )
