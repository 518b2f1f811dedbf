"""Census-Income: a high income or not, and never married or not."""

from __future__ import annotations

import numpy as np

from keras_comet import datasets
from studies.arms import gate_arms
from studies.command import run_command
from studies.recommenders import make_recommenders
from studies.study import Arm
from studies.study import Models
from studies.study import Objective
from studies.study import Study
from studies.tuned_arms import tuned_arms

_OBJECTIVES = (
    Objective("income", "binary"),
    Objective("never_married", "binary"),
)
_EMBEDDING_DIM = 8


def load(seed: int, smoke: bool) -> datasets.MultitaskDataset:
    """Holds out other validation rows for every seed, and numbers the values.

    Numbers are read faster than text.
    """
    data = datasets.census_income(seed=seed)
    return datasets.MultitaskDataset(
        name=data.name,
        train=_number(data, data.train, smoke),
        validation=_number(data, data.validation, smoke),
        test=_number(data, data.test, smoke),
        vocabularies={
            name: np.arange(len(values))
            for name, values in data.vocabularies.items()
        },
    )


def _number(
    data: datasets.MultitaskDataset, split: datasets.Split, smoke: bool
) -> datasets.Split:
    end = 500 if smoke else None
    return datasets.Split(
        {
            name: (
                np.searchsorted(
                    data.vocabularies[name], column[:end].astype(str)
                )
                if name in data.vocabularies
                else column[:end]
            )
            for name, column in split.features.items()
        },
        {name: column[:end] for name, column in split.labels.items()},
    )


def make_models(data: datasets.MultitaskDataset, arm: Arm) -> Models:
    """Makes a small recommender."""
    return make_recommenders(
        data,
        _OBJECTIVES,
        arm,
        side_dim=_EMBEDDING_DIM,
        units=64,
        tower_units=32,
        hash_feature="detailed_industry_recode",
    )


STUDY = Study(
    name="census",
    load=load,
    make_models=make_models,
    objectives=_OBJECTIVES,
    arms=gate_arms(8, deviation_scale=0.03, several_tasks=True, has_ids=True),
    tuned_arms=tuned_arms(8, several_tasks=True, has_ids=True),
    first_steps=(-2, -1),
    batch_size=512,
)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)
