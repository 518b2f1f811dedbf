"""Measures speed and memory, and prints the bars that they have to reach.

    python -m benchmarks [NAME ...] [--smoke] [--rounds N] [--output-dir DIR]

Without a name, all programs run. Each one writes JSON, Markdown and plots;
`bars.md` holds the bars of those that ran.
"""

import argparse
import importlib
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.report import Report
from benchmarks.report import bars_to_markdown
from benchmarks.report import describe_environment_in_words
from benchmarks.report import load_bars

PROGRAMS = (
    "dispatch_speed",
    "gate_speed",
    "union_cap",
    "training_speed",
    "memory",
    "serving_latency",
    "vocabulary",
)

# What one process may take, so that others on the machine survive it.
_SHARE_OF_MEMORY = 0.6


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the programs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=str(PROGRAMS))
    parser.add_argument("--smoke", action="store_true", help="tiny, seconds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/benchmarks"),
    )
    args = parser.parse_args(arguments)
    names = args.names or PROGRAMS
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"No benchmark {sorted(unknown)}. Expected: {PROGRAMS}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        print(f"\n# {name}", flush=True)
        (args.output_dir / f"{name}.json").unlink(missing_ok=True)
        if args.smoke or len(names) == 1:
            run_program(name, args)
        elif run_in_a_process(name, args):
            failed.append(name)
    print_bars(names, args.output_dir)
    if failed:
        raise SystemExit(f"Failed before the end: {', '.join(failed)}")


def run_program(name: str, args: argparse.Namespace) -> None:
    """Runs one benchmark in this process and writes its report."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = int(_SHARE_OF_MEMORY * memory)
    # This process is to fail rather than the machine to run out of memory.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    report = Report(name, args.output_dir, args.smoke)
    program = importlib.import_module(f"benchmarks.{name}")
    program.run(report, 2 if args.smoke else args.rounds, args.smoke)
    report.save()


def run_in_a_process(name: str, args: argparse.Namespace) -> int:
    """Runs one benchmark in a new process; returns its exit status."""
    command = [sys.executable, "-m", "benchmarks", name]
    command += [f"--rounds={args.rounds}", f"--output-dir={args.output_dir}"]
    return subprocess.run(command).returncode


def print_bars(names: Sequence[str], directory: pathlib.Path) -> None:
    """Prints and writes the bars of these programs, if there are any."""
    files = [directory / f"{name}.json" for name in names]
    bars = [bar for file in files if file.exists() for bar in load_bars(file)]
    if bars:
        table = bars_to_markdown(bars)
        environment = describe_environment_in_words()
        (directory / "bars.md").write_text(
            f"# Bars\n\n{environment}\n\n{table}\n"
        )
        print(f"\n# Bars\n\n{table}")
    print(f"\nTables, JSON and plots: {directory}")


if __name__ == "__main__":
    main()
