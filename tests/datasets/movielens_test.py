import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_comet.datasets import Split
from keras_comet.datasets import fetch
from keras_comet.datasets import movielens
from keras_comet.datasets import movielens_100k
from tests.datasets.placing import place_by_the_command_of_the_error

NUM_ITEMS = 40
# User 1 rated more than half of the items: fewer unseen ones than ratings.
NUM_RATED = {1: 30, 2: 17, 5: 15, 7: 15}
USERS = [
    ("1", "24", "M", "writer"),
    ("2", "53", "F", "other"),
    ("5", "33", "F", "other"),
    ("7", "57", "M", "administrator"),
]
TITLES = {1: ("Misérables, Les", "1995"), 2: ("Seven (Se7en)", "1995")}


def _ratings() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(7)
    rows = [
        (user, int(item), int(rng.integers(1, 6)), 880_000_000 + int(item))
        for user, count in NUM_RATED.items()
        for item in 1 + rng.permutation(NUM_ITEMS)[:count]
    ]
    return [rows[row] for row in rng.permutation(len(rows))]


def _official(path: Path) -> None:
    ratings = "".join("\t".join(map(str, row)) + "\n" for row in _ratings())
    drama_and_musical = "|".join("01"[n in (8, 12)] for n in range(19))
    items = "".join(
        f"{item}|{title} ({year})|01-Jan-{year}||http://a|{drama_and_musical}\n"
        for item, (title, year) in TITLES.items()
    )
    items += f"3|unknown||||1{'|0' * 18}\n"
    items += "".join(
        f"{item}|Film {item} (1990)||||{'0|' * 18}1\n"
        for item in range(4, NUM_ITEMS + 1)
    )
    users = "".join("|".join(row) + "|12345\n" for row in USERS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-100k/u.data", ratings)
        archive.writestr("ml-100k/u.item", items.encode("latin-1"))
        archive.writestr("ml-100k/u.user", users)


def _recbole(path: Path) -> None:
    ratings = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    ratings += "".join(
        "\t".join(map(str, row)) + "\n" for row in reversed(_ratings())
    )
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
    items += "class:token_seq\n"
    items += "".join(
        f"{item}\t{title}\t{year}\tDrama Musical\n"
        for item, (title, year) in TITLES.items()
    )
    items += "3\tunkonwn\tunkonwn\tunknown\n"
    items += "".join(
        f"{item}\tFilm {item}\t1990\tWestern\n"
        for item in range(4, NUM_ITEMS + 1)
    )
    users = "user_id:token\tage:token\tgender:token\toccupation:token\tzip\n"
    users += "".join("\t".join(row) + "\t12345\n" for row in reversed(USERS))
    folder = "recbole/dataset_example/ml-100k"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/ml-100k.inter", ratings)
        archive.writestr(f"{folder}/ml-100k.item", items)
        archive.writestr(f"{folder}/ml-100k.user", users)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    if "network" in request.keywords:
        return
    table = np.array(sorted(_ratings()))
    monkeypatch.setattr(movielens, "RATINGS_SHA256", fetch.digest(table))
    sources = [
        source._replace(download=make)
        for source, make in zip(
            movielens.SOURCES, [_official, _recbole], strict=True
        )
    ]
    monkeypatch.setattr(movielens, "SOURCES", sources)


def _all_rows(seed: int, cache_dir: Path, **kwargs: bool) -> Split:
    data = movielens_100k(seed=seed, cache_dir=cache_dir, **kwargs)
    splits = (data.train, data.validation, data.test)
    return Split(
        *(
            {
                name: np.concatenate([split[part][name] for split in splits])
                for name in data.train[part]
            }
            for part in range(2)
        )
    )


@pytest.mark.parametrize("source", [0, 1])
def test_movielens_both_formats_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: int
) -> None:
    chosen = movielens.SOURCES[source : source + 1]
    monkeypatch.setattr(movielens, "SOURCES", chosen)
    data = movielens_100k(cache_dir=tmp_path)
    titles = data.descriptions["item_id"]
    assert len(titles) == NUM_ITEMS
    assert [titles[item] for item in range(1, 5)] == [
        "Misérables, Les (1995)",
        "Seven (Se7en) (1995)",
        "unknown",
        "Film 4 (1990)",
    ]
    with np.load(tmp_path / "movielens_100k_v2.npz") as archive:
        assert archive["ratings"].dtype == np.int64
        assert archive["ratings"].tolist() == [
            list(row) for row in sorted(_ratings())
        ]


def test_movielens_watched_rows_are_the_ratings(tmp_path: Path) -> None:
    rows = _all_rows(0, tmp_path)
    watched = rows.labels["watch"] == 1.0
    found = zip(
        rows.features["user_id"][watched].tolist(),
        rows.features["item_id"][watched].tolist(),
        rows.labels["rating"][watched].tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(row[:3] for row in _ratings())
    assert not rows.labels["rating"][~watched].any()


def test_movielens_drawn_rows_are_unseen_once_and_as_many(
    tmp_path: Path,
) -> None:
    rows = _all_rows(0, tmp_path)
    drawn = rows.labels["watch"] == 0.0
    users = rows.features["user_id"][drawn].tolist()
    pairs = list(zip(users, rows.features["item_id"][drawn], strict=True))
    assert len(set(pairs)) == len(pairs)
    assert not set(pairs) & {row[:2] for row in _ratings()}
    assert {item for _, item in pairs} <= {row[1] for row in _ratings()}
    # User 1 has fewer unseen items than ratings, all of which are taken.
    num_items = len({row[1] for row in _ratings()})
    assert {user: users.count(user) for user in NUM_RATED} == NUM_RATED | {
        1: num_items - 30
    }


def test_movielens_drawn_items_are_uniform(tmp_path: Path) -> None:
    counts = np.zeros(NUM_ITEMS + 1)
    for seed in range(200):
        rows = _all_rows(seed, tmp_path)
        of_user = rows.features["user_id"] == 7
        drawn = of_user & (rows.labels["watch"] == 0.0)
        np.add.at(counts, rows.features["item_id"][drawn], 1)
    seen = [row[1] for row in _ratings() if row[0] == 7]
    unseen = np.setdiff1d([row[1] for row in _ratings()], seen)
    expected = 15 / len(unseen)
    # Five standard deviations of a share observed over 200 draws.
    tolerance = 5 * (expected * (1 - expected) / 200) ** 0.5
    np.testing.assert_allclose(counts[unseen] / 200, expected, atol=tolerance)


def test_movielens_splits_are_stratified_shares(tmp_path: Path) -> None:
    data = movielens_100k(cache_dir=tmp_path)
    drawn = 77 - 30 + len({row[1] for row in _ratings()}) - 30
    for watch, total in ((1.0, 77), (0.0, drawn)):
        test = round(0.1 * total)
        validation = round(0.125 * (total - test))
        assert [
            int((split.labels["watch"] == watch).sum())
            for split in (data.train, data.validation, data.test)
        ] == [total - test - validation, validation, test]


def test_movielens_types_and_vocabularies(tmp_path: Path) -> None:
    data = movielens_100k(cache_dir=tmp_path)
    assert {array.dtype for array in data.train.features.values()} == {
        np.dtype(np.int64)
    }
    assert {array.dtype for array in data.train.labels.values()} == {
        np.dtype(np.float32)
    }
    assert data.vocabularies["user_id"].tolist() == [1, 2, 5, 7]
    items = sorted({row[1] for row in _ratings()})
    assert data.vocabularies["item_id"].tolist() == items


@pytest.mark.parametrize("source", [0, 1])
def test_movielens_rows_are_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: int
) -> None:
    chosen = movielens.SOURCES[source : source + 1]
    monkeypatch.setattr(movielens, "SOURCES", chosen)
    plain = _all_rows(0, tmp_path)
    rows = _all_rows(0, tmp_path, side_features=True)
    for name, values in plain.features.items():
        np.testing.assert_array_equal(rows.features[name], values)
    features = rows.features
    people = {int(user): rest for user, *rest in USERS}
    for row in range(rows.num_rows):
        age, gender, occupation = people[features["user_id"][row]]
        assert features["age"][row] == float(age)
        assert features["gender"][row] == gender
        assert features["occupation"][row] == occupation
        item = features["item_id"][row]
        genres = [g for g in features["genres"][row] if g]
        year = features["release_year"][row]
        if item in TITLES:
            assert (genres, year) == (["Drama", "Musical"], 1995.0)
        elif item == 3:
            assert genres == ["unknown"] and np.isnan(year)
        else:
            assert (genres, year) == (["Western"], 1990.0)
    data = movielens_100k(cache_dir=tmp_path, side_features=True)
    assert data.vocabularies["occupation"].tolist() == [
        "administrator",
        "other",
        "writer",
    ]
    assert data.vocabularies["genres"].tolist() == [
        "Drama",
        "Musical",
        "Western",
        "unknown",
    ]


def test_movielens_histories_are_of_before_and_of_training_rows(
    tmp_path: Path,
) -> None:
    data = movielens_100k(cache_dir=tmp_path, side_features=True)
    train = data.train
    is_watched = train.labels["watch"] == 1.0
    seen = {user: set() for user in NUM_RATED}
    for user, item in zip(
        train.features["user_id"][is_watched],
        train.features["item_id"][is_watched],
        strict=True,
    ):
        seen[int(user)].add(int(item))
    lengths = {0.0: [], 1.0: []}
    for split in (data.train, data.validation, data.test):
        for user, item, watch, history in zip(
            split.features["user_id"],
            split.features["item_id"],
            split.labels["watch"],
            split.features["history"],
            strict=True,
        ):
            found = history[history > 0].tolist()
            # The time of a rating tells the item in this data.
            assert found == sorted(found)
            assert set(found) <= seen[int(user)]
            assert history[: len(history) - len(found)].sum() == 0
            if watch == 1.0:
                before = sorted(i for i in seen[int(user)] if i < item)
                assert found == before[-20:]
            lengths[watch].append(len(found))
    # Users 2, 5 and 7 have as many of both: one time each.
    assert max(lengths[0.0]) > 5


def test_movielens_same_seed_repeats_other_seed_differs(
    tmp_path: Path,
) -> None:
    def items(seed: int) -> list[int]:
        return _all_rows(seed, tmp_path).features["item_id"].tolist()

    assert items(0) == items(0)
    assert items(0) != items(1)
    assert sorted(items(0)) != sorted(items(1))  # other movies drawn as well


def test_movielens_unexpected_ratings_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens, "RATINGS_SHA256", "0" * 64)
    with pytest.raises(fetch.FetchError, match="Expected content with SHA"):
        movielens_100k(cache_dir=tmp_path)


@pytest.mark.network
def test_movielens_real_data_has_the_published_counts(tmp_path: Path) -> None:
    place_by_the_command_of_the_error(movielens_100k, tmp_path)
    data = movielens_100k(cache_dir=tmp_path)
    sizes = [data.train.num_rows, data.validation.num_rows, data.test.num_rows]
    assert sizes == [157_500, 22_500, 20_000]
    assert len(data.vocabularies["user_id"]) == 943
    assert len(data.vocabularies["item_id"]) == 1_682
    rating = _all_rows(0, tmp_path).labels["rating"].astype(int)
    histogram = [100_000, 6_110, 11_370, 27_145, 34_174, 21_201]
    assert np.bincount(rating).tolist() == histogram
    titles = data.descriptions["item_id"]
    assert len(titles) == 1_682
    assert (titles[1], titles[267]) == ("Toy Story (1995)", "unknown")
