"""Classes sharded over devices: whole rows outside of ``shard_map``, a smaller problem inside (docs/jax.md)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import zlpr_core
from zlpr_jax import zlpr_loss

RNG = np.random.default_rng(0)
ROWS, FEATURES, CLASSES, DEVICES = 6, 4, 40, 8
X, KERNEL = RNG.normal(size=(ROWS, FEATURES)).astype("float32"), RNG.normal(size=(FEATURES, CLASSES)).astype("float32")
LABELS = RNG.random((ROWS, CLASSES)) < 0.2
COLUMNS = P(None, "model")


def on_every_device(function, in_specs, out_specs):
    devices = jax.make_mesh((DEVICES,), ("model",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=devices, in_specs=in_specs, out_specs=out_specs)


def test_inside_a_shard_is_taken_for_the_row():
    """What the documentation warns of: should this fail one day, the warning can go."""
    of_shards = on_every_device(lambda *shard: zlpr_loss(*shard)[None], (COLUMNS, COLUMNS), P("model"))
    logits = X @ KERNEL
    parts = zip(np.split(logits, DEVICES, axis=1), np.split(LABELS, DEVICES, axis=1), strict=True)
    expected = [zlpr_core.zlpr(*part) for part in parts]
    np.testing.assert_allclose(of_shards(logits, LABELS), expected, rtol=1e-5)
    assert (np.sum(expected, axis=0) > 2 * zlpr_core.zlpr(logits, LABELS)).all()


def test_outside_in_the_same_jit_it_is_the_row():
    """Only sums of one number a row, of either half, are exchanged: no logits."""
    head = on_every_device(jnp.matmul, (P(), COLUMNS), COLUMNS)
    step = jax.jit(jax.value_and_grad(lambda kernel, x, labels: zlpr_loss(head(x, kernel), labels).mean()))
    compiled = step.lower(KERNEL, X, LABELS).compile()
    loss, gradient = compiled(KERNEL, X, LABELS)
    np.testing.assert_allclose(loss, zlpr_core.zlpr(X @ KERNEL, LABELS).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, X.T @ zlpr_core.zlpr_grad(X @ KERNEL, LABELS) / ROWS, rtol=1e-4, atol=1e-6)
    traffic = set(re.findall(r"(\w+\[[\d,]*\])\S* (?:all-|collective-|reduce-scatter)\w*\(", compiled.as_text()))
    assert traffic == {f"f32[{ROWS}]"}
