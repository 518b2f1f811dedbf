"""What a study has run so far: one line of CSV for each finished run."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from pathlib import Path
from typing import Any
from typing import TypeVar


@dataclasses.dataclass(frozen=True)
class Record:
    """One finished run.

    Args:
        study: str.
        arm: str.
        learning_rate: float.
        seed: int.
        validation_loss: float. At the best epoch, which is restored.
        test_loss: float. Read once, after the training.
        score: float. AUC or accuracy on the test rows.
        cardinality: float. Mean number of experts for a test row and task.
        within_k: float. Share of test rows and tasks with at most k experts.
        dead_experts: int. Experts that no test row of any task uses.
        seconds: float. Processor time of the training, which other programs
            on the machine change little.
        epochs: int. Trained in all.
        best_epoch: int. Counted from 1.
        agreement: float. Share of rows that are routed as planted, where that
            is known. Defaults to NaN.
    """

    study: str
    arm: str
    learning_rate: float
    seed: int
    validation_loss: float
    test_loss: float
    score: float
    cardinality: float
    within_k: float
    dead_experts: int
    seconds: float
    epochs: int
    best_epoch: int
    agreement: float = float("nan")


_PARSERS = {"str": str, "int": int, "float": float}
_Kind = TypeVar("_Kind")


def read_records(path: Path, kind: type[_Kind]) -> list[_Kind]:
    """Reads the finished runs.

    A last line without an end, from a process killed while it wrote, is no
    finished run.

    Args:
        path: Path of the CSV file, which need not exist.
        kind: dataclass of the records, `Record` or `Trial`.

    Returns:
        A list of records.
    """
    if not path.exists():
        return []
    complete = path.read_text().rpartition("\n")[0]
    return [_parse(row, kind) for row in csv.DictReader(io.StringIO(complete))]


def append_record(path: Path, record: Any) -> None:
    """Adds a line, so that it is on disk when this returns.

    Args:
        path: Path of the CSV file, which is made if need be.
        record: `Record` or `Trial`.
    """
    names = [field.name for field in dataclasses.fields(record)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not size:
            writer.writerow(names)
        writer.writerow(_format(getattr(record, name)) for name in names)
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def _parse(row: dict[str, str], kind: type[_Kind]) -> _Kind:
    return kind(
        **{
            field.name: _PARSERS[str(field.type)](row[field.name])
            for field in dataclasses.fields(kind)
        }
    )


def _format(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
