"""One file a framework: how to call it with NumPy arrays, so that every test is written once."""

import importlib

# name on the command line: (module here, Keras backend that must be running)
BACKENDS = {
    "numpy": ("core", None),
    "strict": ("core", None),
    "torch": ("pytorch", None),
    "torch-plain": ("pytorch", None),
    "triton": ("triton", None),
    "jax": ("jax", None),
    "tf": ("tensorflow", "tensorflow"),
    "keras-jax": ("keras_jax", "jax"),
    "keras-torch": ("keras_torch", "torch"),
}


def load(name):
    """The backend called ``name``. One that does not import raises: asked for and missing is a failure."""
    if name not in BACKENDS:
        msg = f"Unknown backend {name!r}. Expected some of {', '.join(BACKENDS)}."
        raise ValueError(msg)
    module, keras_backend = BACKENDS[name]
    if keras_backend is not None:
        _check_keras(keras_backend)
    return importlib.import_module(f"harness.{module}").make(name)


def _check_keras(expected):
    import keras

    if keras.backend.backend() != expected:
        msg = f"Keras runs on {keras.backend.backend()!r}. Set KERAS_BACKEND={expected}."
        raise RuntimeError(msg)
