"""What cannot run on several workers is refused, with what does."""

import json

import pytest

from keras_comet._keras import KERAS_3
from tests.helpers import run_script

# A process can have one strategy; parameter servers are threads of it.
SCRIPT = """
import json
import socket
import sys

import numpy as np
import tensorflow as tf


def make_parameter_servers():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    worker, server = ("127.0.0.1:%d" % s.getsockname()[1] for s in sockets)
    for each in sockets:
        each.close()
    cluster = tf.train.ClusterSpec({"worker": [worker], "ps": [server]})
    for job in ("worker", "ps"):
        threads.append(tf.distribute.Server(cluster, job, task_index=0))
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, rpc_layer="grpc"
    )
    return tf.distribute.ParameterServerStrategy(resolver)


threads = []
strategy = (
    tf.distribute.MultiWorkerMirroredStrategy()
    if sys.argv[1] == "mirrored"
    else make_parameter_servers()
)
import keras_comet

with strategy.scope():
    model = keras_comet.MultiGateRecommender(
        {"user": keras_comet.CategoricalFeature(["ann", "bob"], 4)},
        keras_comet.StackedDenseExperts(3, [4]),
        {"click": keras_comet.TopKGate(3)},
        [keras_comet.Task("click", "mse")],
        tower_units=[],
    )
    model.compile("adam")
x = {"user": np.array(["ann", "bob", "eve", "ann"])}
y = {"click": np.float32([1.0, 0.0, 1.0, 0.0])}
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
outcomes = {}


def attempt(name, function):
    try:
        function()
        outcomes[name] = "ran"
    except ValueError as error:
        outcomes[name] = str(error)


attempt("fit", lambda: model.fit(data.repeat(), steps_per_epoch=3))
attempt("evaluate", lambda: model.evaluate(data.repeat(), steps=2))
attempt(
    "validate",
    lambda: keras_comet.Trainer(model).fit(data, validation_data=data),
)
print("\\n" + json.dumps(outcomes))
"""


def run(strategy):
    finished = run_script(SCRIPT, strategy)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def mirrored():
    return run("mirrored")


@pytest.fixture(scope="module")
def servers():
    return run("servers")


FIT = "Use `keras_comet.Trainer` and `MultiWorkerMirroredStrategy`"
EVALUATE = "Evaluate saved weights in a process of its own"


@pytest.mark.slow
@pytest.mark.skipif(not KERAS_3, reason="Keras 2 has all of it")
def test_several_workers_are_refused_with_the_remedy(mirrored):
    for name, method, remedy in (
        ("fit", "fit", FIT),
        ("evaluate", "evaluate", EVALUATE),
        ("validate", "evaluate", "Leave `validation_data` out"),
    ):
        begin = f"Keras 3 has no `{method}` on several workers. {remedy}"
        assert mirrored[name].startswith(begin)


def test_parameter_servers_are_for_keras_2(servers):
    for name, remedy in (("fit", FIT), ("evaluate", EVALUATE)):
        if KERAS_3:
            begin = f"Keras 3 has no `{name}` on several workers. {remedy}"
            assert servers[name].startswith(begin)
        else:
            assert servers[name] == "ran"


def test_trainer_refuses_parameter_servers(servers):
    assert "Use `MultiWorkerMirroredStrategy`" in servers["validate"]
