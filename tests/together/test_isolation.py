"""With every framework installed, importing one package imports no other's framework. One process each."""

import os
import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "jax", "tensorflow", "keras")
IMPORTS = {  # (package, Keras backend): what it may bring along, and nothing else
    ("zlpr_core", None): "numpy",
    ("zlpr_torch", None): "torch",
    ("zlpr_jax", None): "jax",
    ("zlpr_tf", "tensorflow"): "keras",
    ("zlpr_tf", "jax"): "keras",
    ("zlpr_tf", "torch"): "keras",
}
USES = {
    "zlpr_core": "import numpy as np; zlpr_core.zlpr(np.zeros((1, 2)), np.zeros((1, 2)))",
    "zlpr_torch": "import torch; zlpr_torch.ZLPRLoss()(torch.zeros(1, 2), torch.zeros(1, 2))",
    "zlpr_jax": "zlpr_jax.zlpr_loss([[0.0]], [[1]])",
    "zlpr_tf": "zlpr_tf.ZLPRLoss()([[1]], [[0.0]])",
}


def loaded(program, keras_backend=None):
    """The frameworks in sys.modules after ``program`` ran in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": keras_backend or "tensorflow"}
    program += f"; import sys; print(*[name for name in {FRAMEWORKS} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_is_here_to_be_imported(framework):
    """Else the tests below could not fail."""
    assert framework in loaded(f"import {framework}")


@pytest.mark.parametrize(("package", "keras_backend"), IMPORTS)
@pytest.mark.parametrize("used", [False, True], ids=["imported", "used"])
def test_only_its_own_framework(package, keras_backend, used):
    program = f"import {package}" + (f"; {USES[package]}" if used else "")
    # not a list of our own: Keras itself looks at JAX even on other backends
    assert loaded(program, keras_backend) == loaded(f"import {IMPORTS[package, keras_backend]}", keras_backend)


@pytest.mark.parametrize("keras_backend", ["jax", "torch"])
def test_tensorflow_stays_out_of_the_other_backends_of_keras(keras_backend):
    assert "tensorflow" not in loaded(f"import zlpr_tf; {USES['zlpr_tf']}", keras_backend)
