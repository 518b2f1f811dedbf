"""MovieLens-100k with the tasks of the paper: watched or not, and rated how.

No domains and little data for each id: what being sparse costs there.
"""

from __future__ import annotations

import numpy as np

from keras_comet import datasets
from keras_comet.datasets.multitask_dataset import take_rows
from studies.arms import gate_arms
from studies.command import run_command
from studies.recommenders import make_recommenders
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.tuned_arms import tuned_arms

_OBJECTIVES = (
    Objective("watch", "binary", 0.9),
    Objective("rating", "regression", 0.1, missing=0.0),
)


def load(seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Draws other unseen movies and other splits for every seed."""
    data = datasets.movielens_100k(seed=seed)
    if not smoke:
        return data
    rows = np.arange(500)
    return datasets.MultitaskDataset(
        name=data.name,
        train=take_rows(data.train, rows),
        validation=take_rows(data.validation, rows),
        test=take_rows(data.test, rows),
        vocabularies=data.vocabularies,
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes the model of the paper."""
    return make_recommenders(
        data,
        _OBJECTIVES,
        arm,
        units=256,
        tower_units=256,
        dropout=0.5,
    )


STUDY = Study(
    name="movielens",
    load=load,
    make_models=make_models,
    objectives=_OBJECTIVES,
    arms=gate_arms(16, deviation_scale=0.03, several_tasks=True, has_ids=True),
    tuned_arms=tuned_arms(16, several_tasks=True, has_ids=True),
    first_steps=(-1, 0),
    batch_size=512,
)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)
