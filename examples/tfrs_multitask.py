"""Ranking and retrieval with sparse gates, in TensorFlow Recommenders.

Question: do the gates and experts of keras_comet work inside of a
`tfrs.Model`, with several ranking tasks and a retrieval task in one model?
Data: MovieLens-100k with the two tasks of the COMET paper (will this user
watch this film; which rating does it get). The model: one embedding each for
users and films; for ranking, experts, a COMET gate and a tower for each task,
with at most two experts a row from the epoch named on; for retrieval, two
towers over the same embeddings.

    TF_USE_LEGACY_KERAS=1 python examples/tfrs_multitask.py
    TF_USE_LEGACY_KERAS=1 python examples/tfrs_multitask.py --smoke

TensorFlow Recommenders exists for Keras 2 alone, hence the variable. Prints a
table of test results, retrieves films for one user and ranks them, and exports
the ranking, which a second process serves. An epoch takes half a minute on two
cores; --smoke some seconds in all, on made-up rows.

Expected: after three epochs, capped after two (`--epochs 3 --cardinality-by 2`,
one seed), an AUC of 0.878 and an RMSE of 0.965, every row within two experts,
and 30 % of the watched films among 100 retrieved of 1,682. That the gates work
here is what this shows, not that they pay: there is no arm without experts.
"""

import argparse
import os
import pathlib

if os.environ.get("TF_USE_LEGACY_KERAS") not in ("1", "true", "True"):
    raise SystemExit(
        "TensorFlow Recommenders needs Keras 2. Set the variable before Python "
        "starts: TF_USE_LEGACY_KERAS=1 python examples/tfrs_multitask.py"
    )

# Before anything that imports TensorFlow.
import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras
from export_and_serve import export_and_serve
from made_up_films import make_up_films
from two_stage import parse_arguments
from two_stage import rank

import keras_comet
from keras_comet import datasets

K = 2
BATCH_SIZE = 512
TOP = (10, 100)


class Recommender(tfrs.Model):
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
        self.mixture = keras_comet.MultiGateMixtureOfExperts(
            keras_comet.StackedDenseExperts(
                num_experts, 2 * embedding_dim, "relu", dropout=0.5
            ),
            {
                task: keras_comet.COMETGate(num_experts, k=K)
                for task in ("watch", "rating")
            },
        )
        self.towers = {
            "watch": keras.layers.Dense(1, "sigmoid"),
            "rating": keras.layers.Dense(1),
        }
        self.ranking = {
            "watch": tfrs.tasks.Ranking(
                keras.losses.BinaryCrossentropy(),
                metrics=[keras.metrics.AUC(name="watch_auc")],
            ),
            "rating": tfrs.tasks.Ranking(
                keras.losses.MeanSquaredError(),
                metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
            ),
        }
        self.query, self.candidate = (
            keras.layers.Dense(embedding_dim // 2) for _ in range(2)
        )
        self.films = tf.data.Dataset.from_tensor_slices(
            data.vocabularies["item_id"]
        ).batch(BATCH_SIZE)
        self.retrieval = tfrs.tasks.Retrieval(
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=tfrs.metrics.FactorizedTopK(
                self.films.map(self.embed_candidates), ks=TOP
            ),
        )

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What a served model takes: no labels."""
        return {
            "user_id": self.users.input_spec_for_serving,
            "item_id": self.items.input_spec_for_serving,
        }

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
        mixtures = self.mixture(features, training=training)
        return {
            task: tower(mixtures[task]) for task, tower in self.towers.items()
        }

    def compute_loss(
        self,
        inputs: tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]],
        training: bool = False,
    ) -> tf.Tensor:
        """The weighted sum of the losses of the three tasks."""
        features, labels = inputs
        predictions = self(features, training=training)
        watched = labels["watch"]
        watch = self.ranking["watch"](
            labels=watched[:, tf.newaxis], predictions=predictions["watch"]
        )
        # A film that was not watched has no rating, and is nobody's choice.
        rating = self.ranking["rating"](
            labels=labels["rating"][:, tf.newaxis],
            predictions=predictions["rating"],
            sample_weight=watched,
        )
        retrieval = self.retrieval(
            self.embed_queries(features["user_id"]),
            self.embed_candidates(features["item_id"]),
            sample_weight=watched,
            # Over all films, which takes long.
            compute_metrics=not training,
        )
        return 0.9 * watch + 0.1 * rating + 0.1 * retrieval


def train(
    data: datasets.MultitaskDataset, args: argparse.Namespace
) -> Recommender:
    """Trains the model and prints its results."""
    print(f"training on {data.name}")
    keras.utils.set_random_seed(args.seed)
    model = Recommender(data, args.num_experts, args.embedding_dim)
    model.compile(keras.optimizers.Adam(args.learning_rate))
    model.fit(
        data.train.batches(BATCH_SIZE, shuffle=True, seed=args.seed),
        epochs=args.epochs,
        validation_data=data.validation.batches(4096),
        callbacks=[keras_comet.CardinalityTarget(args.cardinality_by)],
        validation_freq=args.epochs,
        verbose=args.verbose,
    )
    test = model.evaluate(data.test.batches(4096), return_dict=True, verbose=0)
    weights = keras_comet.routing_weights(model, data.test.features)
    statistics = keras_comet.routing_statistics(weights, k=K)
    within_k = np.mean([float(s["within_k"]) for s in statistics.values()])
    print(f"\n| {data.name} | test |\n|---|---|")
    print(f"| AUC of watch | {test['watch_auc']:.4f} |")
    print(f"| RMSE of rating | {test['rmse']:.4f} |")
    for k in TOP:
        share = test[f"factorized_top_k/top_{k}_categorical_accuracy"]
        print(f"| watched film among {k} retrieved | {share:.1%} |")
    print(f"| rows within {K} experts | {within_k:.1%} |")
    return model


def retrieve(model: Recommender, user: np.ndarray) -> tf.Tensor:
    """Finds the films nearest to the query of a user, by their ids."""
    index = tfrs.layers.factorized_top_k.BruteForce(k=TOP[1])
    index.index_from_dataset(
        model.films.map(lambda films: (films, model.embed_candidates(films)))
    )
    _, films = index(model.embed_queries(tf.constant(user)))
    return films[0]


def main() -> None:
    """Reads the arguments and runs everything."""
    args = parse_arguments(__doc__, pathlib.Path("runs/tfrs_multitask"))
    data = make_up_films() if args.smoke else datasets.movielens_100k()
    model = train(data, args)
    user = data.vocabularies["user_id"][:1]
    rank(model, data, user, retrieve(model, user))
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
