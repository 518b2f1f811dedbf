"""The client of the serving guide, with the protocol of TensorFlow Serving.

The server is a stand-in of TensorFlow Serving, which no registry of packages
holds: it answers `Predict` from the signature of an export.
"""

import pathlib
import re
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.helpers import ROOT

GUIDE = ROOT / "docs" / "guides" / "serving.md"
MODULE = "keras_comet._keras"


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves one model, after the requests that its export holds."""

    def __init__(self, path):
        self.name = path.parent.name
        self.signatures = tf.saved_model.load(path).signatures
        file = path / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset([str(file)]):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            self.Predict(log.predict_log.request, None)

    def Predict(self, request, context):
        spec = request.model_spec
        assert spec.name == self.name
        signature = self.signatures[spec.signature_name]
        outputs = signature(
            **{
                name: tf.constant(tf.make_ndarray(tensor))
                for name, tensor in request.inputs.items()
            }
        )
        response = predict_pb2.PredictResponse(model_spec=spec)
        for name, values in outputs.items():
            proto = tf.make_tensor_proto(values.numpy())
            response.outputs[name].CopyFrom(proto)
        return response


@pytest.fixture
def address_of():
    servers = []

    def serve(path):
        server = grpc.server(futures.ThreadPoolExecutor(1))
        servers.append(server)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Service(path), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield serve
    for server in servers:
        server.stop(None).wait()


def test_client_of_the_guide_gets_the_scores_of_keras(address_of):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    [export] = [each for each in blocks if "export_saved_model(" in each]
    [client] = [each for each in blocks if "PredictRequest" in each]
    exported, defined = {}, {}
    exec(
        export.replace("import keras\n", f"from {MODULE} import keras\n"),
        exported,
    )
    exec(client, defined)
    ids = ["196", "new", "22", "196"], [242, 7, 377, -(2**40)]
    address = address_of(pathlib.Path(exported["models"], "recommender", "1"))
    served = defined["predict"](address, *ids)
    model = exported["model"]
    for gate in model.mixture.gates.values():
        gate.hard_routing = True  # as in the export
    expected = model({"user_id": np.array(ids[0]), "item_id": np.array(ids[1])})
    assert set(served) == set(expected) == {"watch", "rating"}
    for task, scores in expected.items():
        assert served[task].shape == (4, 1)
        assert len(np.unique(scores)) == 4
        np.testing.assert_allclose(served[task], scores, atol=1e-6)
