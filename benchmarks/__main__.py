"""Runs all benchmarks and prints the bars that speed has to reach.

    python -m benchmarks [--smoke] [--rounds N] [--output-dir DIRECTORY]

Each program runs in a process of its own and writes JSON, Markdown and plots;
`bars.md` holds the bars of all of them.
"""

import argparse
import os
import subprocess
import sys

from benchmarks.report import add_arguments
from benchmarks.report import bars_to_markdown
from benchmarks.report import describe_environment_in_words
from benchmarks.report import load_bars

PROGRAMS = (
    "dispatch_speed",
    "gate_speed",
    "training_speed",
    "memory",
    "serving_latency",
    "training_profile",
    "cardinality_overhead",
)


def main() -> None:
    """Reads the arguments and runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser)
    args = parser.parse_args()
    bars = []
    failed = []
    for program in PROGRAMS:
        print(f"\n# {program}", flush=True)
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{program}",
            f"--rounds={args.rounds}",
            f"--output-dir={args.output_dir}",
            *(["--smoke"] if args.smoke else []),
        ]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
        results = args.output_dir / f"{program}.json"
        results.unlink(missing_ok=True)
        # What comes after should not be lost with one program that fails.
        if subprocess.run(command, env=environment).returncode:
            failed.append(program)
        if results.exists():
            bars += load_bars(results)
    if not bars:
        raise SystemExit(f"No bar was measured. Failed: {failed}")
    table = bars_to_markdown(bars)
    (args.output_dir / "bars.md").write_text(
        f"# Bars\n\n{describe_environment_in_words()}\n\n{table}\n"
    )
    print(f"\n# Bars\n\n{table}")
    print(f"\nTables, JSON and plots: {args.output_dir}")
    if failed:
        raise SystemExit(f"Failed before the end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
