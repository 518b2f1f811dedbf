"""Options that the studies share."""

import argparse
import pathlib


def make_parser(document: str | None) -> argparse.ArgumentParser:
    """Makes a parser with `--smoke` and `--output-dir`.

    Args:
        document: str. Docstring of the study, whose first line is shown.
    """
    parser = argparse.ArgumentParser(
        description=(document or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="tiny, seconds")
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/studies"),
    )
    return parser
