"""TensorBoard logs of the local search."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.metrics import permutation_distance
from keras_comet.search import SearchReport

# Pixels to an entry of P.
_PIXELS = 8


class SearchLog:
    """Writes the local search below `log_dir/local_search`.

    | tag | kind |
    |---|---|
    | `local_search/loss_before`, `loss_after` | scalar, of the search batch |
    | `local_search/moves`, `evaluations` | scalar |
    | `local_search/<permutation>/distance` | scalar, of P from a permutation |
    | `local_search/<permutation>/assignment` | image of P, outputs by experts |

    The step is the number of updates.

    Args:
        log_dir: str or path.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self._writer = tf.summary.create_file_writer(
            os.path.join(os.fspath(log_dir), "local_search")
        )

    def write(
        self,
        step: int,
        permutations: Sequence[ExpertPermutation],
        report: SearchReport | None,
    ) -> None:
        """Writes the state of the permutations, and a report if there is one.

        Args:
            step: int. Number of updates so far.
            permutations: list of `ExpertPermutation`.
            report: `SearchReport` or `None`.
        """
        # keras.callbacks.TensorBoard may have switched summaries off.
        with self._writer.as_default(step), tf.summary.record_if(True):
            if report is not None:
                for name in ("loss_before", "loss_after", "moves"):
                    self._scalar(name, getattr(report, name))
                self._scalar("evaluations", report.evaluations)
            for permutation in permutations:
                self._write_permutation(permutation)
        self._writer.flush()

    def _write_permutation(self, permutation: ExpertPermutation) -> None:
        weights = tf.convert_to_tensor(permutation.permutation_weights)
        if bool(tf.convert_to_tensor(permutation.frozen)):
            assignment = tf.convert_to_tensor(permutation.assignment)
            weights = tf.one_hot(assignment, permutation.num_experts)
        distance = tf.reduce_mean(permutation_distance(weights))
        self._scalar(f"{permutation.name}/distance", distance)
        pixels = np.kron(weights.numpy(), np.ones((1, _PIXELS, _PIXELS)))
        tf.summary.image(
            f"local_search/{permutation.name}/assignment",
            pixels[..., np.newaxis],
            max_outputs=len(pixels),
        )

    @staticmethod
    def _scalar(name: str, value: Any) -> None:
        tf.summary.scalar(f"local_search/{name}", value)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
