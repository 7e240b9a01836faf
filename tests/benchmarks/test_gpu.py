"""The benchmark for GPUs runs, as small as can be, where there is none."""

import functools
import importlib
from pathlib import Path

import keras
import pytest
import tensorflow as tf

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as for a script
    return importlib.import_module("gpu")


@pytest.fixture
def size(gpu):
    return gpu.Size(images=4, cores=3, rounds=1, xla=False, pipeline_images=20)


def test_cores_and_input_pipeline(gpu, size):
    rows = list(gpu.time_cores(size))
    assert [row["rows"] for row in rows] == [8, 16, 32]
    assert all(row["eigh ms"] > 0 and row["svd ms"] > 0 for row in rows)
    assert gpu.images_per_second(size) > 0


@pytest.mark.slow
def test_steps_leave_keras_and_tensorflow_as_they_were(gpu, size, monkeypatch):
    monkeypatch.setattr(gpu.nets, "build", functools.partial(gpu.nets.build, width=4))
    rows = list(gpu.time_steps("VGG_stride", size, gpu.PRECISIONS[2], xla=False))
    assert [row["loss"] for row in rows] == ["bound", "SSKD_SVD auto", "SSKD_SVD svd"]
    assert rows[0]["/ bound"] == 1 and all(row["images/s"] > 0 for row in rows)
    assert keras.config.dtype_policy().name == "float32"
    assert tf.config.experimental.tensor_float_32_execution_enabled()
