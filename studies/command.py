"""The command line of a study: run what is left, print the table."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from studies.protocol import Run
from studies.protocol import final_records
from studies.protocol import remaining_runs
from studies.records import Record
from studies.records import append_record
from studies.records import read_records
from studies.table import to_markdown
from studies.trials import Trial
from studies.trials import remaining_trials
from studies.workers import run_jobs

if TYPE_CHECKING:
    from studies.study import Study

RESULTS = Path(__file__).parent / "results"


def run_command(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Runs what is left of a study, and prints its table.

    Args:
        study: `Study`.
        arguments: list of str. Defaults to `None`: those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m studies {study.name}")
    parser.add_argument(
        "--seeds", type=int, default=5, help="of each arm at its best rate"
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="random search, with so many of each arm, in place of seeds",
    )
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
    known = study.arms if args.trials is None else study.tuned_arms
    arms = args.arms.split(",") if args.arms else list(known)
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        parser.error(f"arms {unknown} are not among {list(known)}")
    folder = Path(tempfile.mkdtemp()) if args.smoke else RESULTS
    if args.trials is not None:
        path = args.csv or folder / f"{study.name}_trials.csv"
        if not args.table:
            run_trials(
                study, arms, path, args.trials, args.processes, args.smoke
            )
        # Imports TensorFlow, which running trials side by side does not.
        from studies.trial_table import trials_to_markdown

        trials = read_records(path, Trial)
        print(trials_to_markdown(trials, study.score))
        return
    path = args.csv or folder / f"{study.name}.csv"
    if args.smoke:
        runs = [Run(arm, 1e-3, 0) for arm in arms]
        run_all(runs, study, path, args.processes, smoke=True)
        groups = {each.arm: [each] for each in read_records(path, Record)}
    else:
        if not args.table:
            run_study(study, arms, path, args.seeds, args.processes)
        groups = final_records(read_records(path, Record), study.first_steps)
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

    def remaining() -> list[Run]:
        records = read_records(path, Record)
        return remaining_runs(arms, records, num_seeds, study.first_steps)

    _run("train", remaining, study, path, num_processes, smoke=False)


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
            for each in read_records(path, Record)
        }
        return [run for run in runs if run not in done]

    _run("train", remaining, study, path, num_processes, smoke)


def run_trials(
    study: Study,
    arms: Sequence[str],
    path: Path,
    num_trials: int,
    num_processes: int,
    smoke: bool,
) -> None:
    """Runs the trials that the records lack.

    Args:
        study: `Study`.
        arms: list of str.
        path: Path of the CSV file.
        num_trials: int. Of each arm.
        num_processes: int. Trials side by side.
        smoke: bool. Whether to train two epochs on little data.
    """
    _run(
        "train_trial",
        lambda: remaining_trials(arms, read_records(path, Trial), num_trials),
        study,
        path,
        num_processes,
        smoke,
    )


def _run(
    function: str,
    remaining: Callable[[], Sequence[Any]],
    study: Study,
    path: Path,
    num_processes: int,
    smoke: bool,
) -> None:
    """Runs jobs by a function of `studies.training`, which it names."""

    def finish(job: Any, record: Any) -> None:
        append_record(path, record)
        name = ", ".join(map(str, job))
        print(
            f"{name}: validation {record.validation_loss:.4f}, "
            f"{record.epochs} epochs, {record.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    work = functools.partial(_train_named, function, study.name, smoke)
    if num_processes == 1:
        work = functools.partial(_train, function, study, smoke)
    run_jobs(remaining, work, finish, num_processes)


def _train(function: str, study: Study, smoke: bool, job: Any) -> Any:
    # Imports TensorFlow, which a table does without.
    training = importlib.import_module("studies.training")
    return getattr(training, function)(study, job, smoke)


def _train_named(function: str, name: str, smoke: bool, job: Any) -> Any:
    """Trains in another process, which imports the study by its name."""
    study = importlib.import_module(f"studies.{name}").STUDY
    return _train(function, study, smoke, job)
