"""The Keras package's functions on Keras's JAX backend."""

from harness.jax import Jax
from harness.keras_functions import KerasFunctions


class KerasOnJax(KerasFunctions, Jax):
    name = "keras-jax"
    modes = ("jit",)  # eager JAX is judged as "jax", and Keras compiles by default

    def covers(self, dtype, mode):
        return dtype in ("bfloat16", "float32", "float64")  # every compilation takes its time


def make(name):
    return KerasOnJax()
