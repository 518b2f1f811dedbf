"""Packs archives again, so that the same files give the same bytes.

setuptools takes the dates of a source archive from the clock, and the modes of
both archives from the checkout. Here all dates are `SOURCE_DATE_EPOCH`, all
files are 0644 and belong to nobody, and names are sorted.

    SOURCE_DATE_EPOCH=1700000000 python .ci/repack.py dist/*
"""

import gzip
import io
import os
import pathlib
import stat
import sys
import tarfile
import time
import zipfile

_FILE = 0o644
_FOLDER = 0o755


def repack_tar(path: pathlib.Path, epoch: int) -> None:
    """Packs a .tar.gz again."""
    with tarfile.open(path) as archive:
        entries = sorted(archive.getmembers(), key=lambda each: each.name)
        contents = {
            each.name: archive.extractfile(each).read()
            for each in entries
            if each.isfile()
        }
    with (
        path.open("wb") as file,
        # Without a name and a date of its own in the header.
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(
            fileobj=packed, mode="w", format=tarfile.PAX_FORMAT
        ) as archive,
    ):
        for each in entries:
            clean = tarfile.TarInfo(each.name)
            clean.type, clean.size, clean.mtime = each.type, each.size, epoch
            clean.mode = _FILE if each.isfile() else _FOLDER
            archive.addfile(clean, io.BytesIO(contents.get(each.name, b"")))


def repack_zip(path: pathlib.Path, epoch: int) -> None:
    """Packs a wheel again."""
    with zipfile.ZipFile(path) as archive:
        contents = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            clean = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            clean.external_attr = (stat.S_IFREG | _FILE) << 16
            clean.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(clean, contents[name])


def main() -> None:
    """Packs the archives of the command line again."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in map(pathlib.Path, sys.argv[1:]):
        pack = repack_zip if path.suffix == ".whl" else repack_tar
        pack(path, epoch)


if __name__ == "__main__":
    main()
