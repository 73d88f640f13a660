"""JAX spelled as ``zlpr_core.Namespace``."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.dtypes import canonicalize_dtype

from zlpr_core._namespace import namespace_from


def _mark(ids: jax.Array, classes: int, /) -> jax.Array:
    def one_row(row: jax.Array) -> jax.Array:
        return jnp.zeros(classes, bool).at[row].set(True, mode="drop")

    rows: jax.Array = jnp.vectorize(one_row, signature="(p)->(c)")(ids)  # leaves a sharded batch where it is
    return rows


def _is_readable(x: Any, /) -> bool:
    """False for tracers, accelerators, and arrays of which another process holds a part."""
    if isinstance(x, jax.core.Tracer):
        return False
    return x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices())


xp = namespace_from(
    jnp,
    astype=lambda x, dtype: x.astype(canonicalize_dtype(dtype)),  # without x64 no warning that there is no int64
    mark=_mark,
    lift=lambda x, rank: x[(None,) * (rank - x.ndim)],  # for jax_numpy_rank_promotion="raise"
    stop_gradient=jax.lax.stop_gradient,
    device=lambda x: None,  # an option made of a list then moves to where the logits are, sharded or not
    readable=_is_readable,
    dialect={
        "targets": "labels",
        "linear_weight": "kernel",
        "zlpr": "zlpr_loss",
        "sparse_zlpr": "sparse_zlpr_loss",
        "sparse_linear_zlpr": "sparse_linear_zlpr_loss",
    },
)
