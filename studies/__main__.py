"""Runs a study.

    python -m studies NAME [arguments of the study]

NAME is a module of this folder with a function `main`.
"""

import importlib
import os
import sys


def main() -> None:
    """Imports the study named first, and hands the other arguments on."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    # Before TensorFlow: as many runs as there are processes, a core each.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    name = sys.argv.pop(1)
    importlib.import_module(f"studies.{name}").main()


if __name__ == "__main__":
    main()
