"""The Keras package's functions on Keras's JAX backend."""

import zlpr_tf
from harness.jax import Jax


class KerasOnJax(Jax):
    name = "keras-jax"
    modes = ("jit",)  # eager JAX is judged as "jax", and Keras compiles by default

    def losses(self, logits, targets, **options):
        return zlpr_tf.zlpr_loss(targets, logits, **options)

    def terms(self, logits, targets, **options):
        return zlpr_tf.zlpr_terms(targets, logits, **options)

    def helper(self, name):
        return getattr(zlpr_tf, name)


def make(name):
    return KerasOnJax()
