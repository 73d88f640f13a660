"""JAX's own check of derivatives, to second order in forward and reverse mode, on every public loss and divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import zlpr_jax

RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(0, 2, (3, 4)), RNG.normal(0, 2, (3, 4))
SOFT, IDS = RNG.uniform(0.1, 0.9, (3, 4)), np.asarray([[0, -1], [1, 3], [-1, -1]])
ROW, WHERE = RNG.uniform(0.5, 2, 4), RNG.random((3, 4)) < 0.7
WEIGHTS = {"weight": ROW, "pos_weight": ROW[:, None][:3], "threshold": ROW - 1}


@pytest.fixture(autouse=True)
def x64():
    """Finite differences need the digits."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def check(function, **arrays):
    """In every one of the arrays, options among them."""
    names = list(arrays)

    @jax.jit
    def by_position(*values):
        return function(**dict(zip(names, values, strict=True)))

    check_grads(by_position, [jnp.asarray(x, "float64") for x in arrays.values()], order=2, modes=("fwd", "rev"))


def test_the_loss_of_soft_labels_in_its_halves():
    check(lambda **o: sum(zlpr_jax.zlpr_terms(**o, where=WHERE)), logits=LOGITS, labels=SOFT, **WEIGHTS)


def test_the_loss_of_soft_labels():
    check(lambda **o: zlpr_jax.zlpr_loss(**o, label_smoothing=0.1, axis=(0, 1)), logits=LOGITS, labels=SOFT)


def test_class_ids():
    check(lambda logits, **o: zlpr_jax.sparse_zlpr_loss(logits, IDS, **o), logits=LOGITS, **WEIGHTS)


def test_r_drop():
    check(zlpr_jax.rdrop_zlpr_loss, logits1=LOGITS, logits2=OTHER, labels=SOFT, threshold=ROW - 1, alpha=3.0)


@pytest.mark.parametrize("name", ["kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"])
def test_divergences(name):
    """Of a row that is near and of rows that are apart, which are computed in two ways."""
    strength = {} if name == "zlpr_divergence" else {"scale": 1.5}
    q = np.where([[True], [False], [False]], LOGITS + OTHER / 20, OTHER)
    check(lambda **o: getattr(zlpr_jax, name)(**o, where=WHERE), p_logits=LOGITS, q_logits=q, **strength)


def test_the_floor():
    check(zlpr_jax.zlpr_entropy, labels=SOFT)
    check(lambda labels: zlpr_jax.zlpr_entropy(labels, where=WHERE), labels=SOFT)
