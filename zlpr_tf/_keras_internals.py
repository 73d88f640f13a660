"""Every private name of Keras that this package reads."""

from typing import Any


def _find() -> Any:
    """Keras's own ``get_keras_mask``. JAX's tracers take no attribute, so that it keeps their masks in a table."""
    try:
        from keras.src.backend import get_keras_mask
    except ImportError:
        return lambda tensor: getattr(tensor, "_keras_mask", None)
    return get_keras_mask


mask_of = _find()
"""The mask that a layer left on its output, or None. There is no public way to read it."""
