"""The Keras package's functions on Keras's PyTorch backend."""

import zlpr_tf
from harness.pytorch import Torch


class KerasOnTorch(Torch):
    name = "keras-torch"

    def losses(self, logits, targets, **options):
        return zlpr_tf.zlpr_loss(targets, logits, **options)

    def terms(self, logits, targets, **options):
        return zlpr_tf.zlpr_terms(targets, logits, **options)

    def helper(self, name):
        return getattr(zlpr_tf, name)


def make(name):
    return KerasOnTorch()
