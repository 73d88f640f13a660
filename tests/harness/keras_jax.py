"""The Keras package's functions on Keras's JAX backend."""

from harness.jax import Jax
from harness.keras_functions import KerasFunctions


class KerasOnJax(KerasFunctions, Jax):
    name = "keras-jax"
    modes = ("jit",)  # eager JAX is judged as "jax", and Keras compiles by default


def make(name):
    return KerasOnJax()
