"""A study in other processes: one undisturbed, one killed that goes on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

from tests.helpers import ROOT


class Texts(NamedTuple):
    """The records of the one undisturbed, and those of the killed one."""

    whole: str
    before: str
    after: str


def kill_and_go_on(script, tmp_path, torn_line):
    """Runs a script twice; kills it once, in the middle of a line.

    It gets the path of its records, and the seconds that a run takes.
    """
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    undisturbed = _start(script, whole, 0.0)
    killed = _start(script, parts, 0.1)
    while not parts.exists() or parts.read_text().count("\n") < 4:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = parts.read_text()
    parts.write_text(before + torn_line)
    assert _start(script, parts, 0.0).wait() == undisturbed.wait() == 0
    return Texts(whole.read_text(), before, parts.read_text())


def _start(script, path, seconds):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(script),
            str(path),
            str(seconds),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
