"""The Keras package's functions on Keras's JAX backend."""

from harness.jax import Jax
from harness.keras_functions import KerasFunctions


class KerasOnJax(KerasFunctions, Jax):
    name = "keras-jax"

    def covers(self, dtype, mode):
        return dtype in ("bfloat16", "float32")  # every compilation takes its time; the rest is judged as "jax"


def make(name):
    return KerasOnJax()
