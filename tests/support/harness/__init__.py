"""One file a framework: how to call it with NumPy arrays, so that every test is written once."""

import importlib

from registry import BACKENDS


def load(name):
    """The backend called ``name``. One that does not import raises: asked for and missing is a failure."""
    if name not in BACKENDS:
        msg = f"Unknown backend {name!r}. Expected some of {', '.join(BACKENDS)}."
        raise ValueError(msg)
    entry = BACKENDS[name]
    if "keras" in entry:
        _check_keras(entry["keras"])
    return importlib.import_module(f"harness.{entry['harness'][name]}").make(name)


def _check_keras(expected):
    import keras

    if keras.backend.backend() != expected:
        msg = f"Keras runs on {keras.backend.backend()!r}. Set KERAS_BACKEND={expected}."
        raise RuntimeError(msg)
