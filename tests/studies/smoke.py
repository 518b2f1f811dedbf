"""Runs a study in this process."""

import sys

from studies import __main__ as studies


def run_study(monkeypatch, *arguments):
    """Does what `python -m studies` does with these arguments and --smoke."""
    monkeypatch.setattr(sys, "argv", ["studies", *arguments, "--smoke"])
    studies.main()
