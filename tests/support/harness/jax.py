"""JAX under jit, with float64 switched on so that every dtype can be judged.

Without float64, and eagerly, where JAX compiles every operation for every shape by itself, it is judged in tests/frameworks/jax.
"""

import os
import tempfile
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

import zlpr_jax
from harness.base import Backend, UnavailableError, as_numpy, widened

jax.config.update("jax_enable_x64", True)
# pytest's workers inherit the environment, so that each program is compiled by one of them only
if "ZLPR_TEST_PROGRAMS" not in os.environ:
    KEPT = tempfile.TemporaryDirectory(prefix="zlpr-")  # until the process that starts the workers ends
    os.environ["ZLPR_TEST_PROGRAMS"] = KEPT.name
jax.config.update("jax_compilation_cache_dir", os.environ["ZLPR_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


class Jax(Backend):
    name = "jax"
    package = zlpr_jax
    modes = ("jit",)
    default_mode = "jit"
    tracing_modes = ("jit",)
    joint_modes = ("jit",)
    dialect = {"targets": "labels"}
    rounds_alike = jax.__version_info__ >= (0, 5)  # 0.4.38 vectorises the sums of their two programs differently

    def native(self, values, dtype):
        return jnp.asarray(as_numpy(values, dtype))

    def numpy(self, tensor):
        return widened(np.asarray(tensor))

    def dtype_name(self, tensor):
        return tensor.dtype.name

    def call(self, name, arrays, options):
        return self.function(name)(*arrays, **options)

    @contextmanager
    def alarms(self):
        with jax.debug_nans(True), jax.debug_infs(True):
            yield

    def own_options(self, name):
        over_devices = {"axis_name": None} if name in ("zlpr", "sparse_zlpr") else {}
        return super().own_options(name) | over_devices

    def compiled(self, function, mode):
        return jax.jit(function) if mode == "jit" else function

    def spares(self, dtype, mode):
        """Half precision is widened on entry, as the tables of values and edges judge it."""
        return dtype in ("float16", "bfloat16")

    def gradient(self, function, x):
        return jax.grad(function)(x)

    def value_and_gradients(self, function, tensors):
        def total(tensors):
            values = function(tensors)
            return values.sum(), values

        (_, values), gradients = jax.value_and_grad(total, has_aux=True)(tensors)
        return values, gradients

    def jvp(self, function, x, tangent):
        return jax.jvp(function, (x,), (tangent,))[1]

    def hvp(self, function, x, tangent):
        return jax.jvp(jax.grad(function), (x,), (tangent,))[1]


class JaxOnGpu(Jax):
    """Whatever GPU it shows: JAX puts arrays there by itself."""

    name = "jax-cuda"
    reads_ids = False


def make(name):
    if name == "jax-cuda" and jax.default_backend() != "gpu":
        msg = f"The backend 'jax-cuda' needs a GPU, and JAX {jax.__version__} runs on {jax.default_backend()!r} here."
        raise UnavailableError(msg)
    return {"jax": Jax, "jax-cuda": JaxOnGpu}[name]()
