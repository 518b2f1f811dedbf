"""Tunes a model and its gate together, and says what tuning is worth.

Question: which gate should this model have, and how many trials does it take
to find good settings for each? Every trial draws a gate (or one expert, which
costs the same), a learning rate and the gate's own settings, trains a few
epochs, and is given up where most trials before it were better by then.

    python examples/tune_gates.py
    python examples/tune_gates.py --trials 40 --minutes 60
    python examples/tune_gates.py --smoke

Prints a table, and writes to --output-dir the trials (SQLite; another run goes
on from them), the best model (best.keras) and a plot of what the best of m
trials is expected to reach. A quarter of an hour on MovieLens-100k with two
cores. To tune a model of your own, replace `load_data` and `make_model`.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import keras
import numpy as np
import optuna
from movielens_model import BATCH_SIZE
from movielens_model import NUM_EXPERTS
from movielens_model import K
from movielens_model import load_data
from movielens_model import make_model

import keras_comet
from keras_comet import datasets

# Gates that use all experts at first.
CAPPED = {
    "comet": keras_comet.COMETGate,
    "dselect_k": keras_comet.DSelectKGate,
}
GATES = ("one", "top_k", *CAPPED)

# From this epoch on every row is capped, and the weights may be the best.
CAPPED_BY = 3


def suggest_gate(
    trial: optuna.Trial, num_experts: int
) -> Callable[[], keras_comet.Gate]:
    """Draws a kind of gate, and what is to be tuned of it."""
    name = trial.suggest_categorical("gate", GATES)
    if name == "one":
        return functools.partial(keras_comet.SoftmaxGate, 1)
    if name == "top_k":
        return functools.partial(keras_comet.TopKGate, num_experts, k=K)
    gamma = trial.suggest_categorical("gamma", (0.1, 1.0, 5.0))
    return functools.partial(CAPPED[name], num_experts, k=K, gamma=gamma)


class Prune(keras.callbacks.Callback):
    """Stops a training whose epochs were worse than those before it."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial = trial
        self.pruned = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.trial.report(logs["val_loss"], epoch)
        if epoch >= CAPPED_BY and self.trial.should_prune():
            self.model.stop_training = self.pruned = True


def run_trial(
    trial: optuna.Trial,
    data: datasets.MultitaskDataset,
    args: argparse.Namespace,
) -> float:
    """Trains one setting; returns the validation loss of its best epoch."""
    make_gate = suggest_gate(trial, args.num_experts)
    name = trial.params["gate"]
    learning_rate = trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True)
    keras.utils.set_random_seed(trial.number)
    # Equal cost: one expert is as wide as the k that a row computes.
    one = name == "one"
    model = make_model(
        data,
        make_gate,
        keras_comet.StackedDenseExperts(
            1 if one else args.num_experts,
            256 * K if one else 256,
            "relu",
            dropout=0.5,
            deviation_scale=None if one else 0.03,
        ),
        keras.optimizers.Adam(learning_rate),
    )
    prune = Prune(trial)
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss",
            patience=3,
            restore_best_weights=True,
            start_from_epoch=CAPPED_BY if name in CAPPED else 0,
        ),
        prune,
    ]
    if name in CAPPED:
        callbacks.append(keras_comet.CardinalityTarget(by_epoch=CAPPED_BY))
    model.fit(
        data.train.batches(BATCH_SIZE, shuffle=True, seed=trial.number),
        epochs=args.epochs,
        validation_data=data.validation.batches(4096),
        callbacks=callbacks,
        shuffle=False,  # the batches do
        verbose=0,
    )
    # One batch each, so that the loss is the mean over all labelled rows. No
    # choice reads the test loss: it is kept for the table and the plot.
    for part in ("validation", "test"):
        split = getattr(data, part)
        results = model.evaluate(
            split.batches(split.num_rows), verbose=0, return_dict=True
        )
        trial.set_user_attr(part, results["loss"])
    weights = keras_comet.routing_weights(model, data.test.features)
    usage = keras_comet.routing_statistics(weights, k=K)
    cardinalities = [each["cardinality"] for each in usage.values()]
    trial.set_user_attr("experts", float(np.mean(cardinalities)))
    validation_loss = trial.user_attrs["validation"]
    if prune.pruned:
        raise optuna.TrialPruned
    done = trial.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if all(validation_loss < each.value for each in done):
        model.save(args.output_dir / "best.keras")
    return validation_loss


def main() -> None:
    """Runs the trials, and shows what they have found."""
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    data = load_data(args.smoke, fall_back=True, smoke_tasks=2)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=data.name,
        storage=f"sqlite:///{args.output_dir / 'trials.db'}",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=CAPPED_BY),
    )
    # By the number of trials: a sampler of the same seed would draw the same
    # settings in every run.
    study.sampler = optuna.samplers.RandomSampler(seed=len(study.trials))
    print(
        f"{args.trials} trials on {data.name}, {args.minutes} minutes at most"
    )
    study.optimize(
        lambda trial: run_trial(trial, data, args),
        n_trials=args.trials,
        timeout=60 * args.minutes,
        show_progress_bar=True,
    )
    show(study, args.output_dir)


def show(study: optuna.Study, output_dir: pathlib.Path) -> None:
    """Prints a line for each gate, and plots what tuning is worth."""
    finished = [each for each in study.trials if "test" in each.user_attrs]
    arms = {
        gate: [each for each in finished if each.params["gate"] == gate]
        for gate in GATES
    }
    print(
        "\n| gate | trials | validation loss of the best | its test loss | "
        "experts a row | learning rate |\n|---|---|---|---|---|---|"
    )
    for gate, trials in arms.items():
        if trials:
            best = min(trials, key=lambda each: each.user_attrs["validation"])
            attrs = best.user_attrs
            print(
                f"| {gate} | {len(trials)} | {attrs['validation']:.4f} | "
                f"{attrs['test']:.4f} | {attrs['experts']:.2f} | "
                f"{best.params['learning_rate']:.1e} |"
            )
    figure = keras_comet.tuning.plot_expected_best(
        {
            gate: tuple(
                [each.user_attrs[name] for each in trials]
                for name in ("validation", "test")
            )
            for gate, trials in arms.items()
            if trials
        }
    )
    figure.savefig(output_dir / "expected_best.png", dpi=120)
    print(
        f"\nThe best of all is {study.best_trial.params['gate']}. Run this "
        "again for more trials; --help says how many."
        f"\n\nWhere to look: {output_dir / 'best.keras'}, the best model"
        f"\n  {output_dir / 'expected_best.png'}: a line that falls late needs "
        "many trials"
        "\n  docs/guides/watching_gates.md, what the gates of the best model do"
    )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; a smoke run is small."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default="runs/tune_gates"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few synthetic rows, three experts, four trials",
    )
    args = parser.parse_args()
    args.num_experts = NUM_EXPERTS
    if args.smoke:
        args.trials, args.epochs, args.num_experts = 4, CAPPED_BY + 1, 3
    return args


if __name__ == "__main__":
    main()
