"""What the examples that retrieve films, then rank them, have in common."""

import argparse
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet import datasets


def parse_arguments(
    description: str, output_dir: pathlib.Path
) -> argparse.Namespace:
    """Reads the command line, and makes the output directory.

    Args:
        description: str. What the program does; its first line is shown.
        output_dir: path. Where to write, unless told otherwise.

    Returns:
        The arguments; those of a smoke run are small.
    """
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="a quick look")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--num-experts", type=int, default=16)
    parser.add_argument("--embedding-dim", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--cardinality-by",
        type=int,
        default=5,
        metavar="EPOCH",
        help="after how many epochs every row keeps to 2 experts",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=1, choices=(0, 1, 2))
    parser.add_argument("--output-dir", type=pathlib.Path, default=output_dir)
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.cardinality_by = 2, 1
        args.num_experts, args.embedding_dim = 3, 8
    args.output_dir.mkdir(parents=True, exist_ok=True)
    return args


def rank(
    model: Any,
    data: datasets.MultitaskDataset,
    user: np.ndarray,
    films: tf.Tensor,
) -> None:
    """Prints the best of the films that were retrieved, by the gates' towers.

    Args:
        model: Keras model that ranks.
        data: `MultitaskDataset`. Names the films.
        user: array `(1,)`. The id of the user.
        films: tensor `(films,)`. The ids that were retrieved.
    """
    ranked = model(
        {"user_id": tf.constant(np.repeat(user, len(films))), "item_id": films}
    )
    titles = data.descriptions.get("item_id", {})
    print(f"\nOf {len(films)} films retrieved for user {user[0]}:")
    for row in np.argsort(-ranked["watch"][:, 0])[:5]:
        film = int(films[row])
        print(
            f"  watch {float(ranked['watch'][row, 0]):.3f}  "
            f"rating {float(ranked['rating'][row, 0]):.2f}  "
            f"{titles.get(film, film)}"
        )
