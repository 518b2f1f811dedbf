"""Ranking and retrieval with sparse gates and Keras Recommenders, Keras 3.

Question: do the gates and experts of keras_comet go together with the layers
and metrics of keras-rs, in one model with two ranking tasks and retrieval?
Data: MovieLens-100k with the two tasks of the COMET paper (will this user
watch this film; which rating does it get). The model is that of
tfrs_multitask.py, with two `FeatureCross` before the experts: one embedding
each for users and films; for ranking, experts, a COMET gate and a tower for
each task, with at most two experts a row from the epoch named on; for
retrieval, two towers over the same embeddings, `RemoveAccidentalHits` in
training and `BruteForceRetrieval` after it.

    pip install 'keras-comet[keras_rs]'
    python examples/keras_rs_multitask.py
    python examples/keras_rs_multitask.py --smoke

Prints a table of test results, `NDCG` of the films of each user among them,
retrieves films for one user and ranks them, and exports the ranking, which a
second process serves. --smoke takes some seconds, on made-up rows.
"""

import argparse
import os
import pathlib
import warnings

if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):
    raise SystemExit(
        "keras-rs needs Keras 3: start Python without TF_USE_LEGACY_KERAS. For "
        "Keras 2 there is examples/tfrs_multitask.py."
    )

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import keras
import keras_rs
import numpy as np
import tensorflow as tf
from export_and_serve import export_and_serve
from made_up_films import make_up_films
from two_stage import parse_arguments
from two_stage import rank

import keras_comet
from keras_comet import datasets

K = 2
BATCH_SIZE = 512
TOP = (10, 100)
TASKS = ("watch", "rating")


class Recommender(keras.Model):
    """Two ranking tasks that share experts, and a retrieval task.

    Args:
        data: `MultitaskDataset` with users and items.
        num_experts: int.
        embedding_dim: int.
    """

    def __init__(
        self,
        data: datasets.MultitaskDataset,
        num_experts: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.users, self.items = (
            keras_comet.CategoricalFeature(
                data.vocabularies[name], embedding_dim
            )
            for name in ("user_id", "item_id")
        )
        self.crosses = [keras_rs.layers.FeatureCross() for _ in range(2)]
        self.mixture = keras_comet.MultiGateMixtureOfExperts(
            keras_comet.StackedDenseExperts(
                num_experts, 2 * embedding_dim, "relu", dropout=0.5
            ),
            {task: keras_comet.COMETGate(num_experts, k=K) for task in TASKS},
        )
        self.towers = {
            "watch": keras.layers.Dense(1, "sigmoid"),
            "rating": keras.layers.Dense(1),
        }
        self.query, self.candidate = (
            keras.layers.Dense(embedding_dim // 2) for _ in range(2)
        )
        self.remove_accidental_hits = keras_rs.layers.RemoveAccidentalHits()

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What a served model takes."""
        return {
            "user_id": self.users.input_spec_for_serving,
            "item_id": self.items.input_spec_for_serving,
        }

    def build(self, input_shape: object) -> None:
        """Leaves it to the first call, as Keras takes ids for floats."""
        self.built = True

    def embed_candidates(self, items: tf.Tensor) -> tf.Tensor:
        """Maps films to the space of retrieval."""
        return self.candidate(self.items(items))

    def embed_queries(self, users: tf.Tensor) -> tf.Tensor:
        """Maps users to the space of retrieval."""
        return self.query(self.users(users))

    def call(
        self, inputs: dict[str, tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Ranks: the prediction of each task, `(batch, 1)`."""
        features = tf.concat(
            [self.users(inputs["user_id"]), self.items(inputs["item_id"])], -1
        )
        crossed = features
        for cross in self.crosses:
            crossed = cross(features, crossed)
        mixtures = self.mixture(crossed, training=training)
        return {
            task: tower(mixtures[task]) for task, tower in self.towers.items()
        }

    def compute_loss(
        self,
        x: dict[str, tf.Tensor],
        y: dict[str, tf.Tensor],
        y_pred: dict[str, tf.Tensor],
        sample_weight: None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The weighted sum of the losses of the three tasks."""
        watched = y["watch"]
        watch = keras.losses.BinaryCrossentropy()(
            watched[:, tf.newaxis], y_pred["watch"]
        )
        # A film that was not watched has no rating, and is nobody's choice.
        rating = keras.losses.MeanSquaredError()(
            y["rating"][:, tf.newaxis], y_pred["rating"], watched
        )
        # Which of the films of this batch did the user choose?
        logits = tf.matmul(
            self.embed_queries(x["user_id"]),
            self.embed_candidates(x["item_id"]),
            transpose_b=True,
        )
        chosen = tf.eye(tf.shape(logits)[0])
        retrieval = keras.losses.CategoricalCrossentropy(from_logits=True)(
            chosen,
            self.remove_accidental_hits(logits, chosen, x["item_id"]),
            watched,
        )
        own = tf.add_n(self.losses) if self.losses else 0.0
        return 0.9 * watch + 0.1 * rating + 0.1 * retrieval + own


def retrieve(
    model: Recommender, data: datasets.MultitaskDataset
) -> keras_rs.layers.BruteForceRetrieval:
    """Makes the layer that finds the films nearest to a query, by their ids."""
    films = tf.constant(data.vocabularies["item_id"])
    return keras_rs.layers.BruteForceRetrieval(
        model.embed_candidates(films), films, k=TOP[-1], return_scores=False
    )


def by_user(users: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Makes a list of the values of each user, filled up with -1."""
    _, rows, counts = np.unique(users, return_inverse=True, return_counts=True)
    order = rows.argsort(kind="stable")
    places = np.arange(len(rows)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    lists = np.full([len(counts), counts.max()], -1.0, "float32")
    lists[rows[order], places] = values[order]
    return lists


def train(
    data: datasets.MultitaskDataset, args: argparse.Namespace
) -> Recommender:
    """Trains the model and prints its results."""
    print(f"training on {data.name}")
    keras.utils.set_random_seed(args.seed)
    model = Recommender(data, args.num_experts, args.embedding_dim)
    model.compile(keras.optimizers.Adam(args.learning_rate))
    # Builds all layers, which `fit` would do without values, and warn.
    features, labels = next(iter(data.train.batches(2)))
    model.compute_loss(features, labels, model(features))
    model.fit(
        data.train.batches(BATCH_SIZE, shuffle=True, seed=args.seed),
        epochs=args.epochs,
        validation_data=data.validation.batches(4096),
        callbacks=[keras_comet.CardinalityTarget(args.cardinality_by)],
        verbose=args.verbose,
    )
    inputs, labels = data.test
    predicted = model.predict(inputs, batch_size=4096, verbose=0)
    watch, rating = (predicted[task][:, 0] for task in TASKS)
    users, watched = inputs["user_id"], labels["watch"]
    weights = keras_comet.routing_weights(model, inputs)
    statistics = keras_comet.routing_statistics(weights, k=K)
    within_k = np.mean([float(s["within_k"]) for s in statistics.values()])
    auc = keras.metrics.AUC()
    rmse = keras.metrics.RootMeanSquaredError()
    print(f"\n| {data.name} | test |\n|---|---|")
    print(f"| AUC of watch | {auc(watched, watch):.4f} |")
    print(f"| RMSE of rating | {rmse(labels['rating'], rating, watched):.4f} |")
    # What a film is worth to a user: nothing unwatched, else its rating.
    for name, scores in (
        ("watch", watch),
        ("watch times rating", watch * rating),
    ):
        ndcg = keras_rs.metrics.NDCG(k=TOP[0], shuffle_ties=False)
        value = ndcg(by_user(users, labels["rating"]), by_user(users, scores))
        print(f"| NDCG of {TOP[0]} films by {name} | {value:.4f} |")
    films = retrieve(model, data)(model.embed_queries(tf.constant(users)))
    is_hit = films.numpy() == inputs["item_id"][:, np.newaxis]
    for k in TOP:
        share = is_hit[watched == 1.0, :k].any(axis=1).mean()
        print(f"| watched film among {k} retrieved | {share:.1%} |")
    print(f"| rows within {K} experts | {within_k:.1%} |")
    return model


def main() -> None:
    """Reads the arguments and runs everything."""
    args = parse_arguments(__doc__, pathlib.Path("runs/keras_rs_multitask"))
    # Keras warns that the data set, and not fit(), shuffles; so it does.
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    data = make_up_films() if args.smoke else datasets.movielens_100k()
    model = train(data, args)
    user = data.vocabularies["user_id"][:1]
    films = retrieve(model, data)(model.embed_queries(tf.constant(user)))
    rank(model, data, user, films[0])
    export_and_serve(
        model,
        {name: values[:8] for name, values in data.test.features.items()},
        args.output_dir,
        "ranking/1",
    )
    print(f"\nWhere to look: {args.output_dir / 'ranking'}, the exported model")
    print("  docs/guides/serving.md, how to serve it")


if __name__ == "__main__":
    main()
