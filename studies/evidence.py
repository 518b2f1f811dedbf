"""Rebuilds every table and plot of the studies from their records.

    python -m studies evidence

Writes the blocks of the pages anew that begin with `<!-- seeds of NAME -->`,
`<!-- trials of NAME -->`, `<!-- search of NAME -->`, `<!-- narrow of NAME -->`
or `<!-- upcycled of movielens -->` and end with `<!-- end -->`; after a colon
the arms that are shown. Draws a picture for each random search. Nothing is
trained.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from pathlib import Path

from keras_comet.tuning import plot_expected_best
from studies.command import RESULTS
from studies.protocol import final_records
from studies.records import Record
from studies.records import read_records
from studies.study import Study
from studies.table import to_markdown
from studies.trial_table import group_trials
from studies.trial_table import losses
from studies.trial_table import narrow_to_markdown
from studies.trial_table import search_to_markdown
from studies.trial_table import trials_to_markdown
from studies.trials import Trial
from studies.upcycling import best_of_each

_ROOT = Path(__file__).parent.parent
_GUIDES = _ROOT / "docs" / "guides"
PAGES = (
    _ROOT / "README.md",
    _GUIDES / "cardinality.md",
    _GUIDES / "do_experts_pay.md",
    _GUIDES / "evidence.md",
)
_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<table>\w+) of (?P<study>\w+)(: (?P<arms>.*?))? -->\n)"
    r".*?(?P<end>\n<!-- end -->)",
    re.DOTALL,
)


def main() -> None:
    """Rewrites the pages and draws the plots."""
    argparse.ArgumentParser(prog="python -m studies evidence").parse_args()
    for page in PAGES:
        page.write_text(rebuild(page.read_text()))
    for path in sorted(RESULTS.glob("*_trials.csv")):
        groups = group_trials(read_records(path, Trial))
        figure = plot_expected_best(
            {arm: losses(trials) for arm, trials in groups.items()}
        )
        figure.axes[0].set_title(path.stem.removesuffix("_trials"))
        # Without the version of Matplotlib, which would change the file.
        figure.savefig(
            _GUIDES / f"{path.stem}.png", dpi=100, metadata={"Software": None}
        )


def rebuild(text: str) -> str:
    """Returns a page with its tables as the records are now.

    Args:
        text: str. The page.

    Raises:
        ValueError: If a block names an unknown table.
    """
    return _BLOCK.sub(_fill, text)


def _fill(block: re.Match[str]) -> str:
    if block["table"] not in _TABLES:
        raise ValueError(
            f"Expected one of the tables {list(_TABLES)} in a block. "
            f"Received: {block['begin']!r}"
        )
    study = importlib.import_module(f"studies.{block['study']}").STUDY
    arms = block["arms"].split() if block["arms"] else None
    table = _TABLES[block["table"]](study, arms)
    return block["begin"] + table + block["end"]


def _seeds(study: Study, arms: list[str] | None) -> str:
    groups = final_records(
        read_records(RESULTS / f"{study.name}.csv", Record), study.first_steps
    )
    if arms is not None:
        groups = {arm: groups[arm] for arm in arms}
    return to_markdown(groups, study.score)


def _trials(study: Study, arms: list[str] | None) -> list[Trial]:
    trials = read_records(RESULTS / f"{study.name}_trials.csv", Trial)
    return [each for each in trials if arms is None or each.arm in arms]


_TABLES: dict[str, Callable[[Study, list[str] | None], str]] = {
    "seeds": _seeds,
    "trials": lambda study, arms: trials_to_markdown(
        _trials(study, arms), study.score
    ),
    "search": lambda study, arms: search_to_markdown(_trials(study, arms)),
    "narrow": lambda study, arms: narrow_to_markdown(_trials(study, arms)),
    "upcycled": lambda study, arms: to_markdown(
        best_of_each(read_records(RESULTS / "upcycling.csv", Record)),
        study.score,
    ),
}
