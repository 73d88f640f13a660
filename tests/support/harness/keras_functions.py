"""How the Keras package is called, whichever backend Keras runs on."""

import zlpr_tf
from harness.base import ARRAYS, LOGITS, Backend


class KerasFunctions:
    package = zlpr_tf
    dialect = {"targets": "labels"}

    def call(self, name, arrays, options):
        by_name = dict(zip(ARRAYS[name], arrays, strict=True))
        return self.function(name)(*(by_name[argument] for argument in _order(name)), **options)

    def arguments(self, name):
        return [self.dialect.get(argument, argument) for argument in _order(name)]

    def own_options(self, name):
        """Every adapter's; those of the framework below, such as PyTorch's reduction, are none of Keras's."""
        return Backend.own_options(self, name)


def _order(name):
    """As in Keras, logits come last."""
    return sorted(ARRAYS[name], key=lambda argument: argument in LOGITS)
