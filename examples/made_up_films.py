"""Users who watch films of their own kind: MovieLens, for a quick look."""

import numpy as np

from keras_comet import datasets


def make_up_films(num_rows: int = 1024) -> datasets.MultitaskDataset:
    """Makes rows with the features and tasks of MovieLens."""
    random = np.random.default_rng(0)
    users = random.integers(0, 20, num_rows)
    items = random.integers(0, 120, num_rows)
    watched = (users % 3 == items % 3).astype("float32")
    features = {"user_id": users, "item_id": items}
    labels = {
        "watch": watched,
        "rating": watched * (1 + items % 5).astype("float32"),
    }

    def take(rows: slice) -> datasets.Split:
        return datasets.Split(
            {name: values[rows] for name, values in features.items()},
            {name: values[rows] for name, values in labels.items()},
        )

    begin, end = num_rows * 8 // 10, num_rows * 9 // 10
    return datasets.MultitaskDataset(
        "made-up films",
        take(slice(begin)),
        take(slice(begin, end)),
        take(slice(end, None)),
        {"user_id": np.arange(20), "item_id": np.arange(120)},
    )
