"""MovieLens-100k as two tasks: watched or not, and how it was rated."""

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.movielens_files import SOURCES
from keras_comet.datasets.movielens_sides import describe_rows
from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import hold_out
from keras_comet.datasets.multitask_dataset import take_rows

RATINGS_SHA256 = (
    "ec862504a8c24b195f5194e51fb18bb2d59428d00d96d6d1c63433a3bd5f2f47"
)


def movielens_100k(
    *,
    seed: int = 0,
    side_features: bool = False,
    cache_dir: fetch.PathLike | None = None,
) -> MultitaskDataset:
    """Loads MovieLens-100k with the two tasks of the COMET paper.

    For each user with r ratings, r movies that the user has not rated are
    drawn uniformly without replacement (all of them where fewer are left), so
    that half of the 200,000 rows are watched. Random rows, stratified on
    `watch`, form the splits: 10 % test, 12.5 % of the rest validation.

    With side features, a row is as of a time: a rating's own, and for a movie
    that was not rated the time of one of the user's ratings, each taken once.
    The history holds what the user watched before it, as far as the training
    rows say so; nothing of the labels to be predicted is in it.

    The ratings come from GroupLens, or else from a Python package that ships
    them. They are verified and cached outside the repository.

    Reference:
    - [Harper and Konstan, 2015](https://doi.org/10.1145/2827872)
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824v1)

    Args:
        seed: int. Fixes the movies drawn, their times and the splits. Defaults
            to `0`.
        side_features: bool. Whether to add what is known of users and movies.
            Defaults to `False`.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        A `MultitaskDataset`. Features: `user_id` and `item_id`, int64. Labels,
        float32: `watch`, 1 where the user rated the movie, and `rating`, 1 to
        5, which is 0 where `watch` is 0 and must be masked out there. Its
        `descriptions["item_id"]` holds the titles. Side features: `age`
        float32; `gender`, `occupation` strings; `genres` strings `(rows, 6)`,
        filled up with `""`; `release_year` float32, NaN for one movie;
        `history` int64 `(rows, 20)`, the latest last, filled up with 0.

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
        "movielens_100k_v2",
        SOURCES,
        checksum=lambda arrays: fetch.digest(arrays["ratings"]),
        sha256=RATINGS_SHA256,
        cache_dir=cache_dir,
    )
    rng = np.random.default_rng(seed)
    ratings = arrays["ratings"]
    users, items, stars = ratings.T[:3]
    rows = _with_unseen_items(users, items, stars, rng)
    watch = rows.labels["watch"]
    rest, test = hold_out(watch, 0.1, rng)
    train, validation = hold_out(watch[rest], 0.125, rng)
    vocabularies = {
        "user_id": np.unique(users),
        "item_id": np.unique(items),
    }
    if side_features:
        known = describe_rows(rows, rest[train], arrays, seed)
        rows = Split({**rows.features, **known}, rows.labels)
        vocabularies |= {
            name: np.setdiff1d(known[name], [""])
            for name in ("gender", "occupation", "genres")
        }
    titles = zip(
        arrays["title_ids"].tolist(), arrays["titles"].tolist(), strict=True
    )
    return MultitaskDataset(
        name="movielens_100k",
        train=take_rows(rows, rest[train]),
        validation=take_rows(rows, rest[validation]),
        test=take_rows(rows, test),
        vocabularies=vocabularies,
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
