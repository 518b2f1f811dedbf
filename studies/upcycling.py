"""Is a trained model better off as a mixture, or trained for longer?

    python -m studies upcycling [--seeds N] [--table] [--smoke]

On MovieLens-100k one expert is trained until validation stops. From its best
weights three models go on, with a new optimizer, each at its own best rate by
validation: the same model, and mixtures of 16 experts that start with its
predictions, 2 for every row from the start, as all are equal then, by COMET and
by Top-k. The weights that they start with count, so that none can end worse.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras

import keras_comet
from keras_comet import datasets
from studies import movielens
from studies.command import RESULTS
from studies.protocol import Run
from studies.protocol import nan_last
from studies.records import Record
from studies.records import append_record
from studies.records import read_records
from studies.study import Arm
from studies.study import Models
from studies.table import to_markdown
from studies.training import to_record
from studies.training import train_models

_NUM_EXPERTS = 16
_TRAINING_RATE = 2e-3  # the best of one expert, and of mixtures
_RATES = (3.2e-4, 8e-4, 2e-3)
_DEVIATION_SCALE = 0.03


def _comet(num_experts: int) -> keras_comet.Gate:
    return keras_comet.COMETGate(num_experts, k=movielens.STUDY.k)


def _top_k(num_experts: int) -> keras_comet.Gate:
    return keras_comet.TopKGate(num_experts, k=movielens.STUDY.k)


# `one` stops training, and is the baseline of the table.
_ONE = movielens.STUDY.arms["one"]
_LONGER = dataclasses.replace(_ONE, counts_from=0)
_CAPPED = dataclasses.replace(
    _LONGER,
    make_callbacks=lambda: [keras_comet.CardinalityTarget(by_epoch=0)],
)
_ARMS: dict[str, tuple[Arm, Callable[[int], keras_comet.Gate] | None]] = {
    "one_longer": (_LONGER, None),
    "top_k": (_LONGER, _top_k),
    "comet_capped": (_CAPPED, _comet),
}


def run_seed(
    seed: int, done: set[tuple[str, float]], smoke: bool, path: Path
) -> None:
    """Trains one expert, and what goes on from it; appends their records.

    Args:
        seed: int.
        done: set of arms and rates that have run.
        smoke: bool. Whether to train two epochs on little data.
        path: Path of the CSV file.
    """
    data = movielens.STUDY.load(seed, smoke)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    models = movielens.STUDY.make_models(data, _ONE)
    run = Run("one", _TRAINING_RATE, seed)
    first = _train(_ONE, models, data, run, smoke)
    if ("one", _TRAINING_RATE) not in done:
        append_record(path, first)
    for name, (arm, make_gate) in _ARMS.items():
        for rate in _RATES[:1] if smoke else _RATES:
            if (name, rate) in done:
                continue
            keras.utils.set_random_seed(seed)
            copies = _copy(models, data, make_gate)
            run = Run(name, rate, seed)
            append_record(path, _train(arm, copies, data, run, smoke))


def _copy(
    models: Models,
    data: datasets.MultitaskDataset,
    make_gate: Callable[[int], keras_comet.Gate] | None,
) -> Models:
    if make_gate is not None:
        return {
            tasks: keras_comet.upcycle(
                model,
                _NUM_EXPERTS,
                make_gate,
                deviation_scale=_DEVIATION_SCALE,
            )
            for tasks, model in models.items()
        }
    copies = movielens.STUDY.make_models(data, _LONGER)
    for tasks, model in models.items():
        copies[tasks].build_from_config(model.get_build_config())
        copies[tasks].set_weights(model.get_weights())
    return copies


def _train(
    arm: Arm,
    models: Models,
    data: datasets.MultitaskDataset,
    run: Run,
    smoke: bool,
) -> Record:
    outcome = train_models(
        movielens.STUDY,
        arm,
        models,
        data,
        run.learning_rate,
        run.seed,
        smoke,
    )
    return to_record("upcycling", run, outcome)


def best_of_each(records: list[Record]) -> dict[str, list[Record]]:
    """Chooses the rate of each arm and seed by validation.

    Args:
        records: list of `Record`.

    Returns:
        A dict from arm to its best record for each seed.
    """
    groups: dict[str, list[Record]] = {}
    for arm in dict.fromkeys(each.arm for each in records):
        of_arm = [each for each in records if each.arm == arm]
        groups[arm] = [
            min(
                (each for each in of_arm if each.seed == seed),
                key=lambda each: nan_last(each.validation_loss),
            )
            for seed in sorted({each.seed for each in of_arm})
        ]
    return groups


def main() -> None:
    """Runs what is left, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m studies upcycling")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if args.smoke else RESULTS
    path = args.csv or folder / "upcycling.csv"
    for seed in range(0 if args.table else args.seeds):
        done = {
            (each.arm, each.learning_rate)
            for each in read_records(path, Record)
            if each.seed == seed
        }
        if len(done) < 1 + len(_ARMS) * len(_RATES):
            run_seed(seed, done, args.smoke, path)
    print(to_markdown(best_of_each(read_records(path, Record)), "AUC"))
