"""What is known of the users and the movies of MovieLens-100k."""

import numpy as np

from keras_comet.datasets import fetch
from keras_comet.datasets.multitask_dataset import Split

HISTORY_LENGTH = 20


def describe_rows(
    rows: Split, train: np.ndarray, arrays: fetch.Arrays, seed: int
) -> fetch.Arrays:
    """Makes the side features of rows.

    Args:
        rows: `Split`. All ratings, in the order of the arrays, then the rows
            of movies that were not rated, user by user.
        train: int array. The numbers of the rows to train on.
        arrays: dict of arrays, as the archives hold them.
        seed: int. Fixes the times of movies that were not rated.

    Returns:
        A dict from feature to array, one row each.
    """
    users, items = rows.features["user_id"], rows.features["item_id"]
    times = _times(rows, arrays["ratings"], seed)
    of_user = _find(arrays["user_ids"], users)
    of_item = _find(arrays["title_ids"], items)
    watched = train[rows.labels["watch"][train] == 1.0]
    return {
        "age": arrays["ages"][of_user],
        "gender": arrays["genders"][of_user],
        "occupation": arrays["occupations"][of_user],
        "genres": arrays["genres"][of_item],
        "release_year": arrays["years"][of_item],
        "history": _histories(users, items, times, watched),
    }


def _times(rows: Split, ratings: np.ndarray, seed: int) -> np.ndarray:
    """When a rating was given; else one of the times of its user."""
    # Not the generator of the rows, which are the same without these times.
    rng = np.random.default_rng([seed, 1])
    num_rated = len(ratings)
    drawn_users = rows.features["user_id"][num_rated:]
    drawn = []
    for user, count in zip(
        *np.unique(drawn_users, return_counts=True), strict=True
    ):
        own = ratings[ratings[:, 0] == user, 3]
        drawn.append(rng.permutation(own)[:count])
    return np.concatenate([ratings[:, 3], *drawn])


def _histories(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    watched: np.ndarray,
) -> np.ndarray:
    """The last movies that a user watched before each row, the latest last."""
    span = times.max() + 1
    # One number orders by user, then by time.
    order = watched[
        np.lexsort((items[watched], times[watched], users[watched]))
    ]
    moments = users[order] * span + times[order]
    first = np.searchsorted(moments, users * span)
    end = np.searchsorted(moments, users * span + times)
    # One row of places for each row of data.
    places = end[:, np.newaxis] + np.arange(-HISTORY_LENGTH, 0)
    is_own = places >= first[:, np.newaxis]
    return np.where(is_own, items[order][np.maximum(places, 0)], 0)


def _find(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of the wanted ids is."""
    order = ids.argsort()
    return order[np.searchsorted(ids[order], wanted)]
