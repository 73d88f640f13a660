"""Keras on JAX with the kernel of LinearZLPR spread over devices, which trains as on one."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import keras
import numpy as np
from zlpr_tf import LinearZLPR

distribution = keras.distribution
mesh = distribution.DeviceMesh((1, 4), ("batch", "model"), distribution.list_devices()[:4])
layout = distribution.LayoutMap(mesh)
layout[".*head/.*kernel"], layout[".*head/.*bias"] = (None, "model"), ("model",)
rng = np.random.default_rng(0)
x, ids = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 4096, size=(64, 3))


def trained(over):
    keras.utils.set_random_seed(0)
    distribution.set_distribution(over)
    network = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(8, activation="tanh")])
    model = LinearZLPR(4096, network, sparse=SPARSE, chunk=256, name="head")
    model.compile(keras.optimizers.SGD(0.5))
    labels = ids if SPARSE else (np.arange(4096) == ids[..., None]).any(1)
    losses = model.fit(x, labels, batch_size=32, epochs=2, shuffle=False, verbose=0).history["loss"]
    return [losses, *model.get_weights()], model.kernel.value.sharding


one, _ = trained(None)
four, sharding = trained(distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
assert tuple(sharding.spec) == (None, "model") and len(sharding.device_set) == 4, sharding
for here, there in zip(one, four, strict=True):
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "ids"])
def test_model_parallel(sparse):
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    program = f"SPARSE = {sparse}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
