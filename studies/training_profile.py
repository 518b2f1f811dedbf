"""Where a training step of the MovieLens model spends its time.

    python -m studies training_profile [--smoke] [--steps N]

Profiles steps in the middle of an epoch with the TensorFlow profiler, with
gates that are as sparse as after training, and adds up the operations by the
part of the model that they belong to, forward and backward. Operations run
side by side on several threads, so that they add up to more than the step.
"""

import glob
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from typing import Any

import keras
import tensorflow as tf

import keras_comet
from benchmarks.report import Report
from benchmarks.training_speed import cardinality
from benchmarks.training_speed import make_model
from examples import movielens_model as movielens
from studies.command_line import make_parser

# The first pattern found in the name of an operation says its part.
PARTS = (
    ("optimizer", r"/adam(_\d+)?/"),
    ("gates", r"/comet_gate"),
    ("experts", r"/sequential"),
    ("dispatch and combine", r"/multi_gate_mixture_of_experts"),
    ("towers", r"_tower"),
    ("embeddings and features", r"(categorical|numeric)_feature"),
    ("losses, metrics and others", r""),
)

# They contain other operations, which are counted themselves.
_CONTAINERS = ("PartitionedCall", "If", "While", "Case", "FunctionRun")

_FIRST_STEP = 20


class ProfiledSteps(keras.callbacks.Callback):
    """Profiles some steps of an epoch and takes their time."""

    def __init__(self, directory: str, num_steps: int) -> None:
        super().__init__()
        self.directory = directory
        self.num_steps = num_steps
        self.seconds = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == _FIRST_STEP:
            tf.profiler.experimental.start(self.directory)
            self.seconds = -time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == _FIRST_STEP + self.num_steps - 1:
            self.seconds += time.perf_counter()
            tf.profiler.experimental.stop()


def saturate(model: keras_comet.MultiGateRecommender) -> None:
    """Makes all splits so steep that every row gets at most k experts."""
    for gate in model.mixture.gates.values():
        gate.split_kernel.assign(1e4 * tf.convert_to_tensor(gate.split_kernel))


def read_events(directory: str) -> list[tuple[str, float]]:
    """Reads names and milliseconds of what ran on the processor."""
    # Ships with TensorFlow, but is no part of its public API.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    [path] = glob.glob(
        os.path.join(directory, "**", "*.xplane.pb"), recursive=True
    )
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    return [
        (plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9)
        for plane in space.planes
        if plane.name == "/host:CPU"
        for line in plane.lines
        for event in line.events
    ]


def find_part(name: str) -> str:
    """Finds the part of the model that an operation belongs to."""
    return next(part for part, pattern in PARTS if re.search(pattern, name))


def summarize(
    report: Report,
    events: list[tuple[str, float]],
    num_steps: int,
    title: str,
) -> None:
    """Adds the table of parts, and of the slowest operations."""
    parts = dict.fromkeys([part for part, _ in PARTS], 0.0)
    kinds: Counter[tuple[str, str]] = Counter()
    waiting = 0.0
    for name, duration in events:
        operation = re.fullmatch(r"(\S+):(\w+)", name)
        if name == "IteratorGetNextOp::DoCompute":
            waiting += duration
        elif (
            operation is not None
            and "::" not in name
            and "/" in name
            and not operation[2].endswith(_CONTAINERS)
        ):
            part = find_part(name)
            parts[part] += duration
            kinds[part, operation[2]] += duration
    total = sum(parts.values()) + waiting
    shares = {"waiting for the input pipeline": waiting, **parts}
    report.add(
        f"{title}: parts of a step",
        [
            {
                "part": part,
                "ms a step": duration / num_steps,
                "share": f"{duration / total:.1%}",
            }
            for part, duration in shares.items()
        ],
    )
    report.add(
        f"{title}: operations that take most",
        [
            {"part": part, "type": kind, "ms a step": duration / num_steps}
            for (part, kind), duration in kinds.most_common(15)
        ],
    )


def profile(report: Report, dispatch: str, num_steps: int, smoke: bool) -> None:
    """Profiles one model."""
    data = movielens.load_data(smoke)
    model = make_model(data, 2 if smoke else movielens.NUM_EXPERTS, dispatch)
    saturate(model)
    batch_size = 16 if smoke else movielens.BATCH_SIZE
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    batches = data.train.batches(batch_size, shuffle=True)
    model.fit(batches, verbose=0)
    with tempfile.TemporaryDirectory() as directory:
        callback = ProfiledSteps(directory, num_steps)
        model.fit(batches, verbose=0, callbacks=[callback])
        events = read_events(directory)
    title = f"dispatch={dispatch!r}"
    summarize(report, events, num_steps, title)
    experts = cardinality(model, data)
    report.note(
        f"{title}: {1e3 * callback.seconds / num_steps:.1f} ms a step under "
        f"the profiler; experts a row: {experts}"
    )


def time_input_pipeline(report: Report, smoke: bool) -> None:
    """Times the batches alone: the first one, and all."""
    data = movielens.load_data(smoke)
    batches = data.train.batches(movielens.BATCH_SIZE, shuffle=True)
    for _ in range(2):
        begin = time.perf_counter()
        iterator = iter(batches)
        next(iterator)
        first = time.perf_counter() - begin
        for _batch in iterator:
            pass
        seconds = time.perf_counter() - begin
        report.add(
            "Input pipeline alone, an epoch",
            [
                {
                    "first batch, ms": 1e3 * first,
                    "all batches, ms": 1e3 * seconds,
                    "batches": len(batches),
                }
            ],
        )


def main() -> None:
    """Reads the arguments and profiles both dispatches."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=150, help="to profile")
    args = parser.parse_args()
    report = Report("training_profile", args.output_dir, args.smoke)
    for dispatch in ("auto", "dense"):
        profile(report, dispatch, 4 if args.smoke else args.steps, args.smoke)
    time_input_pipeline(report, args.smoke)
