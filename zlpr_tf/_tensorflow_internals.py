"""Every private name of TensorFlow that this package reads."""

from typing import Any

import tensorflow as tf


def _find() -> Any:
    """TensorFlow's own answer to ``is_compiled_by_xla``, or None where it is gone. It has no public one."""
    try:
        from tensorflow.python.ops import control_flow_util
    except ImportError:
        return None
    return getattr(control_flow_util, "GraphOrParentsInXlaContext", None)


_GRAPH_IS_FOR_XLA = _find()


def is_compiled_by_xla() -> bool:
    """True if XLA compiles the graph that is being built; False if that cannot be known.

    ``_derivative`` then keeps two arrays of the logits' size that XLA does not need. Nothing else depends on it.
    """
    return _GRAPH_IS_FOR_XLA is not None and bool(_GRAPH_IS_FOR_XLA(tf.compat.v1.get_default_graph()))
