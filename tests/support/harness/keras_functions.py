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
        """Those of every adapter. PyTorch's `reduction` and `impl` are not offered, even where Keras runs on PyTorch."""
        return Backend.own_options(self, name)


def _order(name):
    """Labels before logits, as in Keras."""
    return sorted(ARRAYS[name], key=lambda argument: argument in LOGITS)
