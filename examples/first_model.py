# %% [markdown]
# # A first model
#
# From columns of your own to a trained, compared and exported model of two
# tasks, in less than a minute. The same text is a notebook,
# `examples/first_model.ipynb`, and a program, `python examples/first_model.py`.

# %%
# First, as it keeps back what TensorFlow's libraries print when they load.
import quiet_tensorflow  # noqa: F401

# isort: split
import pathlib

import keras
import numpy as np

import keras_comet

keras.utils.set_random_seed(0)

# %% [markdown]
# ## Columns
#
# A row is one example: what is known of it, and what is to be predicted. These
# columns are made up; put your own in their place, as lists, arrays or columns
# of pandas. Numbers and labels may be missing (NaN): only those who finished a
# book gave it stars.

# %%
ROWS = 4000
random = np.random.default_rng(0)
readers = random.integers(0, 300, ROWS)
books = random.integers(0, 200, ROWS)
pages = 100.0 + 2.0 * books
# Three kinds of readers. The first like short books, the others long ones, of
# even or of odd numbers.
likes = np.choose(
    readers % 3,
    [250.0 - pages, pages - 350.0, pages - 350.0],
) / 100.0 + np.choose(readers % 3, [0 * books, books % 2, -(books % 2)])
finished = (likes + random.normal(size=ROWS) > 0.0).astype(int)
stars = np.clip(np.round(3.0 + likes + 0.5 * random.normal(size=ROWS)), 1, 5)

columns = {
    "reader": [f"reader {number}" for number in readers],
    "book": books + 1,
    "genres": [
        ["crime", "drama"] if number % 2 else ["comedy"] for number in books
    ],
    "pages": np.where(random.random(ROWS) < 0.1, np.nan, pages),
}
labels = {
    "finished": finished,
    "stars": np.where(finished, stars, np.nan),
}

# %% [markdown]
# Rows are held out before anything else: the second part chooses, the third one
# tests.


# %%
def cut(begin, end):
    """Returns the columns and the labels of some rows."""
    return tuple(
        {name: values[begin:end] for name, values in data.items()}
        for data in (columns, labels)
    )


train, validation, test = cut(0, 3000), cut(3000, 3500), cut(3500, ROWS)

# %% [markdown]
# ## Models
#
# `from_data` looks at the columns: strings and integers are ids, lists of them
# several ids, floats are numbers; labels of 0 and 1 make a binary task, others
# one of regression. The model gets eight experts, and for each task a COMET
# gate that is to choose two of them for a row.
#
# Beside it stands the baseline that must not be missing: one expert, twice as
# wide, which costs the same for a row.


# %%
def make_model(kind):
    """Makes the mixture, or the one expert."""
    if kind == "mixture":
        return keras_comet.MultiGateRecommender.from_data(*train)
    return keras_comet.MultiGateRecommender.from_data(
        *train,
        experts=keras_comet.StackedDenseExperts(1, 2 * 128, "relu"),
        gates={task: keras_comet.SoftmaxGate(1) for task in labels},
    )


for name, feature in make_model("mixture").features.items():
    print(f"{name}: {type(feature).__name__}")

# %% [markdown]
# ## Training
#
# A gate of COMET uses all experts at first, so that each of them learns. After
# three epochs `CardinalityTarget` keeps every row to two. Early stopping
# takes the best epoch by the validation loss, of those under the cap.

# %%
DEADLINE = 3
models, results = {}, {}
for kind in ("one expert", "mixture"):
    models[kind] = make_model(kind)
    models[kind].compile(keras.optimizers.Adam(2e-3))
    history = models[kind].fit(
        *train,
        batch_size=64,
        epochs=8,
        validation_data=validation,
        callbacks=[
            keras_comet.CardinalityTarget(by_epoch=DEADLINE),
            keras.callbacks.EarlyStopping(
                "val_loss",
                patience=2,
                restore_best_weights=True,
                start_from_epoch=DEADLINE,
            ),
        ][kind == "one expert" :],
        verbose=0,
    )
    results[kind] = models[kind].evaluate(*test, verbose=0, return_dict=True)
    print(f"{kind}: trained for {len(history.history['loss'])} epochs")

# %% [markdown]
# ## Did experts pay?
#
# One seed and one learning rate are a first look, no more. If the one expert is
# no worse, use it. The guide *Do experts pay?* says how to be sure.

# %%
metrics = list(results["mixture"])
print("| model | " + " | ".join(metrics) + " |\n" + "|---" * (len(metrics) + 1))
for kind, values in results.items():
    cells = " | ".join(f"{values[name]:.4f}" for name in metrics)
    print(f"| {kind} | {cells} |")

# %% [markdown]
# How many experts a row of the test set really uses, and what the loss would
# gain if each gate were overruled. The two can disagree: if the mixture is
# better and yet one of its experts would serve all rows, what helped is how it
# was trained, and not that experts are chosen.

# %%
weights = keras_comet.routing_weights(models["mixture"], test[0])
for task, each in weights.items():
    print(f"{task}: at most {np.count_nonzero(each, axis=1).max()} of 8")
print(keras_comet.routing_ablation(models["mixture"], test))

# %% [markdown]
# ## Export
#
# The directory is what TensorFlow Serving loads. It takes the raw columns by
# name, strings too, and needs neither Keras nor this package.

# %%
directory = pathlib.Path("runs/first_model/1")
keras_comet.export_saved_model(models["mixture"], directory)
rows = {name: values[:3] for name, values in test[0].items()}
for task, values in models["mixture"].predict(rows, verbose=0).items():
    print(task, values.ravel().round(3))

# %%
print(f"Where to look: {directory}, the exported model;")
print("docs/guides/your_own_data.md, the same from a file of your own;")
print("docs/guides/do_experts_pay.md, how to compare;")
print("docs/guides/serving.md, how to serve it.")
