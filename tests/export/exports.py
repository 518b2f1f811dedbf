"""Exports of many models, served by one other process."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from keras_comet.export import export_saved_model

BATCHES = (1, 5, 17)


class Exports:
    """Collects exports, and what serving them should return."""

    def __init__(self, directory):
        self.directory = directory
        self.expected = {}
        self.inputs = {}
        self.models = {}

    def add(self, name, model, inputs, expected, **kwargs):
        path = self.directory / name / "1"
        assert export_saved_model(model, path, **kwargs) == path
        if kwargs.get("hard_routing"):
            self.models[name] = model
        self.inputs[name] = sorted(inputs)
        self.expected[name] = tf.nest.map_structure(np.asarray, expected)
        np.savez(
            self.directory / f"{name}_inputs.npz",
            **{
                f"{batch}:{key}": value[:batch]
                for key, value in inputs.items()
                for batch in BATCHES
            },
        )

    def serve(self):
        cases = [
            {
                "path": str(self.directory / name / "1"),
                "inputs": str(self.directory / f"{name}_inputs.npz"),
                "outputs": str(self.directory / f"{name}_outputs.npz"),
            }
            for name in self.expected
        ]
        (self.directory / "cases.json").write_text(json.dumps(cases))
        subprocess.run(
            [
                sys.executable,
                "-I",
                str(pathlib.Path(__file__).with_name("serve.py")),
                str(self.directory / "cases.json"),
                str(self.directory / "report.json"),
            ],
            check=True,
            cwd="/",
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        report = json.loads((self.directory / "report.json").read_text())
        self.report = dict(zip(self.expected, report, strict=True))
        self.served = {}
        for name in self.expected:
            with np.load(self.directory / f"{name}_outputs.npz") as outputs:
                self.served[name] = dict(outputs)
