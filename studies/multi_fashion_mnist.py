"""Two overlaid pieces of clothing: the MultiFashionMNIST of the paper."""

from studies.command import run_command
from studies.multi_mnist import make_study

STUDY = make_study("multi_fashion_mnist", fashion=True, num_experts=5, k=2)


def main() -> None:
    """Runs the study."""
    run_command(STUDY)
