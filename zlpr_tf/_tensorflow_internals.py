"""Every private name of TensorFlow that this package reads."""

from importlib import import_module
from typing import Any

import tensorflow as tf


def _find(module: str, name: str) -> Any:
    """What TensorFlow has of that name, or None where it is gone."""
    try:
        return getattr(import_module(f"tensorflow.python.{module}"), name, None)
    except ImportError:
        return None


_GRAPH_IS_FOR_XLA = _find("ops.control_flow_util", "GraphOrParentsInXlaContext")
_POSSIBLE_GRADIENTS = _find("ops.gradients_util", "PossibleTapeGradientTypes")
_IS_ON_TAPE = _find("eager.record", "should_record_backprop")


KNOWS_XLA = _GRAPH_IS_FOR_XLA is not None
"""True if ``is_compiled_by_xla`` can tell. ``_linear_graph`` makes all logits at once if not, as XLA and other graphs
have no operation in common that writes in place and is right in every derivative."""


def is_compiled_by_xla() -> bool:
    """True if XLA compiles the graph that is being built; False if that cannot be known.

    ``_derivative`` then keeps two arrays of the logits' size that XLA does not need.
    """
    return KNOWS_XLA and bool(_GRAPH_IS_FOR_XLA(tf.compat.v1.get_default_graph()))


def needs_only_gradients(tensors: list[Any], others: list[Any]) -> bool:
    """True if at most one tape watches ``tensors``, no accumulator does, and nothing watches ``others``.

    Of those in the graph that is being built, or eagerly. False if that cannot be known: ``_linear_graph`` then makes
    all logits at once, and the regret is taken of the whole batch, which is right in any case. Of a ``tf.function``
    with a custom gradient TensorFlow 2.21 takes neither the second order nor the forward mode, nor does XLA of a loop.
    """
    if _POSSIBLE_GRADIENTS is None or _IS_ON_TAPE is None or _POSSIBLE_GRADIENTS(others):
        return False
    orders = _POSSIBLE_GRADIENTS(tensors)
    return orders == 0 or (orders == 1 and bool(_IS_ON_TAPE(tensors)))
