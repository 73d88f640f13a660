"""The Keras package's functions on Keras's JAX backend."""

from harness.jax import Jax
from harness.keras_functions import KerasFunctions


class KerasOnJax(KerasFunctions, Jax):
    name = "keras-jax"

    def covers(self, dtype, mode):
        return dtype == "float32"  # compiling takes its time: "jax" judges what XLA does, "tf" how dtypes are treated

    def spares(self, dtype, mode):
        return True


def make(name):
    return KerasOnJax()
