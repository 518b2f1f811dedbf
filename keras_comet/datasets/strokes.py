"""Images of strokes from three domains that share their labels."""

import numpy as np

from keras_comet.datasets.multitask_dataset import MultitaskDataset
from keras_comet.datasets.multitask_dataset import Split
from keras_comet.datasets.multitask_dataset import split_in_order

NUM_CLASSES = 10
NUM_DOMAINS = 3

_SIZE = 16
_STROKES = 3
_POINTS = 16  # drawn along each stroke
_DASH = 4  # points on, points off
_PEN = 0.6  # standard deviation of a point's brightness, in pixels
_REACH = 6.0  # of the ends of strokes from the middle, in pixels
_BEND = 4.0  # of arcs, in pixels
# What strokes are drawn with and on: lines, arcs, and dashed strokes.
_INK = np.array([1.0, 1.0, 0.0], np.float32)
_PAPER = np.array([0.0, 0.5, 1.0], np.float32)
_JITTER = 1.0  # of the ends and bends of strokes, in pixels
_SHIFT = 1.0  # of whole images, in pixels
_ROTATION = 0.15  # of whole images, in radians
_ROWS_AT_A_TIME = 2000  # bounds the memory taken by points


def synthetic_strokes(
    num_rows: int = 30_000,
    *,
    noise: float = 0.15,
    shapes_seed: int = 0,
    seed: int = 0,
) -> MultitaskDataset:
    """Draws images of ten classes that look different in three domains.

    A class is three strokes, other ones in each domain, so that a model has
    to learn thirty shapes under ten labels: white lines on black, white arcs
    on gray, or dashed black strokes on white. Every image is drawn by an
    unsteady hand: ends and bends of strokes, position and angle vary, and
    pixels get normal noise. A small set on which experts can specialize, as
    the domain of a row is easy to see and decides what its shape means.

    Args:
        num_rows: int. Rows in all: 80 % train, 10 % validation, 10 % test.
            Defaults to `30_000`.
        noise: float. Standard deviation of the pixels' noise, where white
            is 1 and black is 0. Defaults to `0.15`.
        shapes_seed: int. Fixes the strokes of the classes. Defaults to `0`.
        seed: int. Fixes the rows. Defaults to `0`.

    Returns:
        A `MultitaskDataset`. Features: `image`, float32 `(rows, 16, 16)`, and
        `domain`, int64 from 0 to 2, for looking at what a gate found. Label:
        `shape`, int64 from 0 to 9.

    Raises:
        ValueError: If `num_rows` is below 10, or `noise` is negative.

    Example:

    ```python
    from keras_comet import datasets

    data = datasets.synthetic_strokes(num_rows=100)
    print(data.train.features["image"].shape)  # (80, 16, 16)
    ```
    """
    if num_rows < 10:
        raise ValueError(
            "Expected at least 10 rows, since every split needs one. "
            f"Received: num_rows={num_rows}. Raise it."
        )
    if not 0.0 <= noise < np.inf:
        raise ValueError(
            "Expected a finite standard deviation of at least 0. "
            f"Received: noise={noise}. Use 0.0 for no noise."
        )
    shapes = _draw_shapes(np.random.default_rng(shapes_seed))
    rng = np.random.default_rng(seed)
    domains = rng.integers(NUM_DOMAINS, size=num_rows)
    labels = rng.integers(NUM_CLASSES, size=num_rows)
    images = np.concatenate(
        [
            _draw_images(
                shapes[domains[rows], labels[rows]], domains[rows], rng
            )
            for rows in np.split(
                np.arange(num_rows),
                np.arange(_ROWS_AT_A_TIME, num_rows, _ROWS_AT_A_TIME),
            )
        ]
    )
    images += noise * rng.standard_normal(images.shape, np.float32)
    rows = Split({"image": images, "domain": domains}, {"shape": labels})
    train, validation, test = split_in_order(rows)
    return MultitaskDataset(
        name="synthetic_strokes",
        train=train,
        validation=validation,
        test=test,
        vocabularies={"domain": np.arange(NUM_DOMAINS)},
    )


def _draw_shapes(rng: np.random.Generator) -> np.ndarray:
    """Begin, bend and end of strokes: `(domains, classes, strokes, 3, 2)`.

    In pixels from the middle of the image.
    """
    shape = (NUM_DOMAINS, NUM_CLASSES, _STROKES)
    ends = rng.uniform(-_REACH, _REACH, (*shape, 2, 2))
    bends = ends.mean(axis=-2)
    bends[1] += _BEND * rng.standard_normal(bends[1].shape)
    return np.stack([ends[..., 0, :], bends, ends[..., 1, :]], axis=-2)


def _draw_images(
    shapes: np.ndarray, domains: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws one image `(16, 16)` of each row of shapes."""
    strokes = shapes + _JITTER * rng.standard_normal(shapes.shape)
    angle = _ROTATION * rng.standard_normal(len(shapes))
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    strokes = np.einsum("bspd,deb->bspe", strokes, turn)
    strokes += _SHIFT * rng.standard_normal((len(shapes), 1, 1, 2))
    along = np.linspace(0.0, 1.0, _POINTS)
    bezier = np.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2])
    points = np.einsum("bspd,pt->bstd", strokes, bezier)
    points = points.reshape(len(shapes), -1, 2).astype(np.float32)
    pixels = np.arange(_SIZE, dtype=np.float32) - (_SIZE - 1) / 2
    # A round pen is the product of one along each axis: (rows, points, 16).
    near = np.exp(-0.5 * ((points[..., np.newaxis] - pixels[:]) / _PEN) ** 2)
    is_off = (np.arange(_POINTS) // _DASH) % 2 == 1
    is_dashed = domains == NUM_DOMAINS - 1
    drawn = 1.0 - is_dashed[:, np.newaxis] * np.tile(is_off, _STROKES)
    across = near[:, :, 1] * drawn[..., np.newaxis].astype(np.float32)
    cover = 1.0 - np.exp(-np.matmul(across.transpose(0, 2, 1), near[:, :, 0]))
    ink, paper = (
        tone[domains, np.newaxis, np.newaxis] for tone in (_INK, _PAPER)
    )
    return paper + (ink - paper) * cover
