"""The command line of a study: run what is left, print the table."""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studies.protocol import Run
from studies.protocol import final_records
from studies.protocol import remaining_runs
from studies.records import Record
from studies.records import append_record
from studies.records import read_records
from studies.table import to_markdown

if TYPE_CHECKING:
    from studies.study import Study

_RESULTS = Path(__file__).parent / "results"


def run_command(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Runs what is left of a study, and prints its table.

    Args:
        study: `Study`.
        arguments: list of str. Defaults to `None`: those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m studies {study.name}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--arms", help="names, with commas; all of them if left out"
    )
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--smoke", action="store_true", help="two epochs, a rate, little data"
    )
    parser.add_argument(
        "--table", action="store_true", help="no training, only the table"
    )
    args = parser.parse_args(arguments)
    arms = args.arms.split(",") if args.arms else list(study.arms)
    unknown = [arm for arm in arms if arm not in study.arms]
    if unknown:
        parser.error(f"arms {unknown} are not among {list(study.arms)}")
    path = args.csv or _RESULTS / f"{study.name}.csv"
    if args.smoke and not args.csv:
        path = Path(tempfile.mkdtemp()) / f"{study.name}.csv"
    if args.smoke:
        runs = [Run(arm, 1e-3, 0) for arm in arms]
        run_all(runs, study, path, args.processes, smoke=True)
        groups = {each.arm: [each] for each in read_records(path)}
    else:
        if not args.table:
            run_study(study, arms, path, args.seeds, args.processes)
        groups = final_records(read_records(path), study.first_steps)
    print(to_markdown(groups, study.score))


def run_study(
    study: Study,
    arms: Sequence[str],
    path: Path,
    num_seeds: int,
    num_processes: int,
) -> None:
    """Runs what the records lack, until nothing is left.

    Args:
        study: `Study`.
        arms: list of str.
        path: Path of the CSV file.
        num_seeds: int. Seeds for each arm at its best rate.
        num_processes: int. Runs side by side.
    """
    _run(
        lambda: remaining_runs(
            arms, read_records(path), num_seeds, study.first_steps
        ),
        study,
        path,
        num_processes,
        smoke=False,
    )


def run_all(
    runs: Sequence[Run],
    study: Study,
    path: Path,
    num_processes: int,
    smoke: bool,
) -> None:
    """Runs those of a list that the records lack.

    Args:
        runs: list of `Run`.
        study: `Study`.
        path: Path of the CSV file.
        num_processes: int. Runs side by side.
        smoke: bool. Whether to train two epochs on little data.
    """

    def remaining() -> list[Run]:
        done = {
            Run(each.arm, each.learning_rate, each.seed)
            for each in read_records(path)
        }
        return [run for run in runs if run not in done]

    _run(remaining, study, path, num_processes, smoke)


def _run(
    remaining: Callable[[], list[Run]],
    study: Study,
    path: Path,
    num_processes: int,
    smoke: bool,
) -> None:
    """Runs the most urgent ones, and asks again after each of them."""
    if num_processes == 1:
        from studies.training import train

        while runs := remaining():
            _finish(path, train(study, runs[0], smoke))
        return
    with concurrent.futures.ProcessPoolExecutor(
        num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as pool:
        in_flight: dict[concurrent.futures.Future[Record], Run] = {}
        while True:
            for run in remaining():
                if len(in_flight) == num_processes:
                    break
                if run not in in_flight.values():
                    future = pool.submit(_train, study.name, run, smoke)
                    in_flight[future] = run
            if not in_flight:
                return
            finished, _ = concurrent.futures.wait(
                in_flight, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                del in_flight[future]
                _finish(path, future.result())


def _finish(path: Path, record: Record) -> None:
    append_record(path, record)
    print(
        f"{record.arm} at {record.learning_rate:g}, seed {record.seed}: "
        f"validation {record.validation_loss:.4f}, {record.epochs} epochs, "
        f"{record.seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def _train(name: str, run: Run, smoke: bool) -> Record:
    """Trains in another process, which imports the study by its name."""
    from studies.training import train

    return train(importlib.import_module(f"studies.{name}").STUDY, run, smoke)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed, which would wait forever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
