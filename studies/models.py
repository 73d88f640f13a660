"""The models: a linear one, and one with a hidden layer and dropout. Pure functions of one model's parameters.

Each is in two parts. The first is linear in the features, so mixing what comes out of it is mixing the features; and it
has the same batch for every configuration, so that vmap makes one matrix product of all of them.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN = {"linear": (), "MLP": (128,)}  # widths
DROPOUT = 0.5
Parameters = dict[str, jax.Array]


def initial(key: jax.Array, widths: tuple[int, ...], *, threshold: bool) -> list[Parameters]:
    """A layer for each step from a width to the next. The last starts at 0: no loss starts nearer to its optimum."""
    layers = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        scale = 0 if number == len(widths) - 2 else np.sqrt(2 / inputs)
        weight = scale * jax.random.normal(jax.random.fold_in(key, number), (inputs, outputs))
        layers.append({"weight": weight, "bias": jnp.zeros(outputs)})
    return [*layers, {"threshold": jnp.zeros(widths[-1])}] if threshold else layers


def enter(parameters: list[Parameters], x: jax.Array) -> jax.Array:
    """The first layer, before its nonlinearity."""
    return x @ parameters[0]["weight"] + parameters[0]["bias"]


def leave(parameters: list[Parameters], x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """From there to the logits, with dropout where there is a key; a learned threshold is subtracted."""
    for number, layer in enumerate(parameters[1:]):
        if "threshold" in layer:
            x = x - layer["threshold"]
            continue
        x = jax.nn.relu(x)
        if key is not None:
            kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - DROPOUT, x.shape)
            x = jnp.where(kept, x / (1 - DROPOUT), 0)
        x = x @ layer["weight"] + layer["bias"]
    return x
