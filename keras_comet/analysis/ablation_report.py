"""The report of a routing ablation: numbers, a table, a plot, a reading."""

import dataclasses
from typing import Any

from keras_comet.analysis.estimate import Estimate
from keras_comet.analysis.figures import make_figure

# Of the loss. What is less comes from rounding.
_NEGLIGIBLE = 1e-4

_HOW_TO_READ = (
    "`as it is` is the loss, and the columns after it are what it gains when "
    "this gate alone is overruled: mean ± standard error over the batches. "
    "Two standard errors or less say that the gate is not needed for that."
)


@dataclasses.dataclass(frozen=True)
class GateAblation:
    """What overruling one gate costs.

    Args:
        loss: `Estimate` of the loss as it is.
        differences: dict from `"mean_weights"`, `"shuffled"`,
            `"largest_only"` and `"best_single_expert"` to the `Estimate` of
            what that adds to the loss, batch by batch.
        single_experts: list of `Estimate`, the same for each expert when it
            serves all rows alone.
        best_expert: int. The best one of them.
    """

    loss: Estimate
    differences: dict[str, Estimate]
    single_experts: list[Estimate]
    best_expert: int

    @property
    def verdict(self) -> str:
        """The reading of the numbers, in words."""
        negligible = _NEGLIGIBLE * abs(self.loss.mean)
        if all(
            abs(each.mean) + 2.0 * each.standard_error <= negligible
            for each in (*self.differences.values(), *self.single_experts)
        ):
            return "these experts are one expert"
        free = {
            name: each.mean <= max(2.0 * each.standard_error, negligible)
            for name, each in self.differences.items()
        }
        if free["best_single_expert"]:
            return f"one expert ({self.best_expert}) serves all rows as well"
        blind = [_spell(n) for n in ("mean_weights", "shuffled") if free[n]]
        if blind:
            return (
                "the gate does not look at the rows, or to no avail: "
                f"{' and '.join(blind)} cost nothing"
            )
        cheapest = min(
            ("mean_weights", "shuffled", "best_single_expert"),
            key=lambda name: self.differences[name].mean,
        )
        return (
            f"the routing is worth {self.differences[cheapest]} over "
            f"{_spell(cheapest)}, next to a loss of {self.loss.mean:.4g}"
        )


@dataclasses.dataclass(frozen=True)
class AblationReport:
    """The result of `routing_ablation`; `print` shows all of it.

    Args:
        gates: dict from the task of each gate, or its name, to its
            `GateAblation`.
    """

    gates: dict[str, GateAblation]

    def table(self) -> str:
        """Returns a Markdown table, a row for each gate."""
        names = list(next(iter(self.gates.values())).differences)
        rows = [
            ["gate", "as it is", *map(_spell, names)],
            ["---"] * (len(names) + 2),
        ]
        for label, gate in self.gates.items():
            cells = [str(gate.differences[name]) for name in names]
            cells[-1] += f" (expert {gate.best_expert})"
            rows.append([label, f"{gate.loss.mean:.4g}", *cells])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the numbers and verdicts as plain values, by gate."""
        return {
            label: {
                "as_it_is": gate.loss._asdict(),
                **{n: e._asdict() for n, e in gate.differences.items()},
                "best_expert": gate.best_expert,
                "verdict": gate.verdict,
            }
            for label, gate in self.gates.items()
        }

    def plot(self) -> Any:
        """Draws what overruling each gate adds to the loss.

        Returns:
            A `matplotlib.figure.Figure` with a bar for each column of the
            table and axes for each gate; lines are two standard errors.

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        figure = make_figure(6.0, 0.5 + 2.0 * len(self.gates))
        all_axes = figure.subplots(len(self.gates), squeeze=False)[:, 0]
        for axes, (label, gate) in zip(
            all_axes, self.gates.items(), strict=True
        ):
            estimates = gate.differences.values()
            axes.barh(
                list(map(_spell, gate.differences)),
                [each.mean for each in estimates],
                xerr=[2.0 * each.standard_error for each in estimates],
            )
            axes.axvline(0.0, color="black", linewidth=0.8)
            axes.invert_yaxis()
            axes.set_title(f"{label}: {gate.loss.mean:.4g} as it is")
        all_axes[-1].set_xlabel("added to the loss, ± 2 standard errors")
        return figure

    def __str__(self) -> str:
        verdicts = [f"- {n}: {gate.verdict}." for n, gate in self.gates.items()]
        return "\n\n".join([self.table(), _HOW_TO_READ, "\n".join(verdicts)])


def _spell(name: str) -> str:
    return name.replace("_", " ")
