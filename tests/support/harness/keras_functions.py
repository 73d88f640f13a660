"""How the Keras package is called, whichever backend Keras runs on."""

import zlpr_tf
from harness.base import ADAPTED, ARRAYS


class KerasFunctions:
    def call(self, name, arrays, options):
        logits, others = [], []
        for argument, array in zip(ARRAYS[name], arrays, strict=True):
            (logits if "logits" in argument else others).append(array)
        return getattr(zlpr_tf, ADAPTED.get(name, name))(*others, *logits, **options)

    def helper(self, name):
        return getattr(zlpr_tf, name)
