"""PyTorch's loop over experts by index, as MoE layers in the wild do it.

PyTorch is optional: `pip install torch`. Without it this side is left out.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.baselines import Layers
from benchmarks.baselines import has_relu

# Waiting threads that spin would take the cores from the other sides, and from
# PyTorch itself: 16 instead of 300 ms a call on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MESSAGE = (
    "PyTorch is not installed, so its per-expert index loop is left out. "
    "Install it with `pip install torch` to compare with it."
)


def is_available() -> bool:
    """Whether PyTorch can be imported."""
    return importlib.util.find_spec("torch") is not None


class TorchIndexLoop:
    """The mixture by PyTorch: for each expert that has rows, index and add.

    Args:
        layers: list of `(kernels, biases)`, stacked.
        rows: array `(rows, features)`.
        routing_weights: list of arrays `(rows, num_experts)` with equally
            many nonzeros in every row, one a gate.
    """

    def __init__(
        self,
        layers: Layers,
        rows: np.ndarray,
        routing_weights: list[np.ndarray],
    ) -> None:
        import torch

        self._torch = torch
        self._parameters = [
            [
                (
                    # Linear layers of PyTorch hold (units, inputs).
                    torch.tensor(
                        np.ascontiguousarray(kernels[expert].T),
                        requires_grad=True,
                    ),
                    torch.tensor(biases[expert], requires_grad=True),
                )
                for kernels, biases in layers
            ]
            for expert in range(len(layers[0][0]))
        ]
        self._rows = torch.from_numpy(rows)
        self._selected = []
        for weights in routing_weights:
            k = int(np.count_nonzero(weights[0]))
            values, experts = torch.topk(torch.from_numpy(weights), k)
            # The gate gets its gradient in training, as on the other sides.
            self._selected.append((values.requires_grad_(), experts))

    def __call__(self) -> list[Any]:
        """Inference: the mixtures, one a gate."""
        with self._torch.inference_mode():
            return self._combine()

    def _combine(self) -> list[Any]:
        torch = self._torch
        mixtures = []
        for values, experts in self._selected:
            total = None
            mask = torch.nn.functional.one_hot(experts, len(self._parameters))
            mask = mask.permute(2, 1, 0)  # (num_experts, k, rows)
            hit = mask.sum(dim=(1, 2)).nonzero()[:, 0].tolist()
            for expert in hit:
                slot, row = torch.where(mask[expert])
                output = self._call_expert(expert, self._rows[row])
                output = output * values[row, slot, None]
                if total is None:
                    shape = (len(self._rows), output.shape[-1])
                    total = torch.zeros(shape)
                total = total.index_add_(0, row, output)
            mixtures.append(total)
        return mixtures

    def _call_expert(self, expert: int, hidden: Any) -> Any:
        functional = self._torch.nn.functional
        layers = self._parameters[expert]
        for index, (kernel, bias) in enumerate(layers):
            hidden = functional.linear(hidden, kernel, bias)
            if has_relu(index, len(layers)):
                hidden = functional.relu(hidden)
        return hidden

    def make_training_step(self, learning_rate: float) -> Callable[[], None]:
        """Forward, backward and Adam on the mean square of the mixtures."""
        torch = self._torch
        optimizer = torch.optim.Adam(
            [p for e in self._parameters for layer in e for p in layer],
            lr=learning_rate,
        )

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss = sum((mixture**2).mean() for mixture in self._combine())
            loss.backward()
            optimizer.step()

        return step
