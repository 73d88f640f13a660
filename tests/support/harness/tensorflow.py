"""TensorFlow tensors: eagerly, in a graph, and compiled by XLA."""

from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from harness.base import Backend, as_numpy, widened
from harness.keras_functions import KerasFunctions


class TensorFlow(KerasFunctions, Backend):
    name = "tf"
    modes = ("eager", "function", "xla")
    tracing_modes = ("function", "xla")
    deaf_modes = ("xla",)
    joint_modes = ("function", "xla")

    def native(self, values, dtype):
        return tf.constant(as_numpy(values, dtype))

    def numpy(self, tensor):
        return widened(np.asarray(tensor))

    def dtype_name(self, tensor):
        return tensor.dtype.name

    @contextmanager
    def alarms(self):
        """XLA refuses them, so that who wants them does without it."""
        tf.debugging.enable_check_numerics()
        try:
            yield
        finally:
            tf.debugging.disable_check_numerics()

    def total(self, losses):
        return tf.reduce_sum(losses)

    def compiled(self, function, mode):
        return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")

    def covers(self, dtype, mode):
        """Graphs run the same kernels as eager calls, and "jax" shows what XLA does in every dtype: float32 is enough here."""
        return mode == "eager" or dtype in {"function": ("float32",), "xla": ("float32",)}[mode]

    def spares(self, dtype, mode):
        """XLA compiles for seconds, and "jax" shows what it makes of the same formulas."""
        return mode == "xla"

    def gradient(self, function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    def value_and_gradients(self, function, tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            values = function(tensors)
        return values, tape.gradient(values, tensors)

    def jvp(self, function, x, tangent):
        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            value = function(x)
        return accumulator.jvp(value)

    def hvp(self, function, x, tangent):
        with tf.GradientTape() as tape:
            tape.watch(x)
            slope = tf.reduce_sum(self.gradient(function, x) * tangent)
        return tape.gradient(slope, x)


def make(name):
    return TensorFlow()
