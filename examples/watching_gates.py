# %% [markdown]
# # Watching gates
#
# A mixture that trains without error may still use one expert, or all of them,
# or choose at random. Here a gate is watched while it trains, and asked
# afterwards what it is worth, in less than a minute. The same text is a
# notebook, `examples/watching_gates.ipynb`, and a program,
# `python examples/watching_gates.py`.

# %%
# First, as it keeps back what TensorFlow's libraries print when they load.
import quiet_tensorflow  # noqa: F401

# isort: split
import pathlib

import keras
import numpy as np
from matplotlib import pyplot as plt

import keras_comet

keras.utils.set_random_seed(0)
OUTPUT = pathlib.Path("runs/watching_gates")
OUTPUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Rows of three kinds
#
# Images of strokes under ten labels: lines on black, arcs on gray, dashes on
# white. What a shape means depends on the domain, so that experts have
# something to specialize on. The model is not told which domain an image is
# from; we keep that to look at what the gate found.

# %%
data = keras_comet.datasets.synthetic_strokes(10_000)
x, y = data.train.features["image"], data.train.labels["shape"]
test_x, test_y = data.test.features["image"], data.test.labels["shape"]
domain = data.test.features["domain"]

figure, axes = plt.subplots(1, 3, figsize=(4.5, 1.8), layout="constrained")
for number, each in enumerate(axes):
    each.imshow(test_x[domain == number][0], cmap="gray", vmin=0, vmax=1)
    each.set(xticks=[], yticks=[], title=f"domain {number}")
figure.savefig(OUTPUT / "domains.png")

# %% [markdown]
# ## Training, watched
#
# Six experts, of which a row is to use one. `GateSparsityLogger` looks at a
# probe after each epoch, always the same rows; it writes what it sees for
# TensorBoard, and keeps the numbers in `history`.

# %%
DEADLINE, EPOCHS = 6, 12
gate = keras_comet.COMETGate(6, k=1, name="gate")
experts = keras_comet.StackedDenseExperts(6, 32, "relu")
model = keras.Sequential(
    [
        keras.Input((16, 16)),
        keras.layers.Flatten(),
        keras_comet.MixtureOfExperts(experts, gate, name="mixture"),
        keras.layers.Dense(10, "softmax"),
    ]
)
model.compile(
    keras.optimizers.Adam(2e-3),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
logger = keras_comet.GateSparsityLogger(OUTPUT, test_x[:300])
target = keras_comet.CardinalityTarget(by_epoch=DEADLINE)
model.fit(
    x, y, batch_size=128, epochs=EPOCHS, callbacks=[target, logger], verbose=0
)
_, accuracy = model.evaluate(test_x, test_y, verbose=0)
print(f"trained for {EPOCHS} epochs, accuracy on test rows: {accuracy:.3f}")

# %% [markdown]
# `cardinality` is the number of experts of a row, a mean over the probe. COMET
# begins with all of them and closes in on one; the step at the deadline is what
# the cap takes away. `normalized_entropy` is 1 if all experts are used alike,
# and 0 if one expert does everything.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axes, name in ((left, "cardinality"), (right, "normalized_entropy")):
    values = [float(entry["gate"][name]) for entry in logger.history]
    axes.plot(logger.steps, values, marker="o")
    axes.axvline(DEADLINE, color="black", linewidth=0.8)
    axes.set(xlabel="finished epochs", title=name, ylim=(0, None))
figure.savefig(OUTPUT / "over_the_epochs.png")

# %% [markdown]
# ## Who goes where
#
# A line for each domain, a column for each expert. Lines that differ say that
# the gate tells the domains apart, which nobody told it.

# %%
weights = keras_comet.routing_weights(model, test_x)["gate"]
usage = np.stack(
    [weights[domain == number].mean(axis=0) for number in range(3)]
)
figure, axes = plt.subplots(figsize=(5, 2), layout="constrained")
picture = axes.imshow(usage, vmin=0.0, vmax=1.0, aspect="auto")
axes.set(xlabel="expert", ylabel="domain", yticks=range(3))
figure.colorbar(picture, label="share")
figure.savefig(OUTPUT / "experts_by_domain.png")
print(usage.round(2))

# %% [markdown]
# ## What the gate is worth
#
# Even use is not quality: a gate that chooses at random uses all experts alike.
# `routing_ablation` overrules the gate and says what the loss gains. A bar that
# ends at 0, or left of it, says that the gate is not needed for that.

# %%
report = keras_comet.routing_ablation(model, (test_x, test_y))
print(report)
figure = report.plot()
figure.savefig(OUTPUT / "routing_ablation.png")
figure

# %% [markdown]
# ## Whether the experts differ
#
# Experts whose outputs are all alike leave nothing to choose from. Red squares
# beside the diagonal are experts that learnt the same.

# %%
similarity = keras_comet.expert_similarity(model, test_x)["mixture"]
print(similarity.verdict)
figure = similarity.plot()
figure.savefig(OUTPUT / "expert_similarity.png")
figure

# %%
print(f"Where to look: {OUTPUT}, these pictures;")
print(f"tensorboard --logdir {OUTPUT}, the same and more by epoch;")
print("docs/guides/watching_gates.md, what to make of them;")
print("docs/guides/do_experts_pay.md, what to do about them.")
