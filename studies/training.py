"""Training: all configurations of a loss at once, by vmap over the training of one, on the same batches and dropout."""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import Dataset, split

from studies.losses import Loss
from studies.models import HIDDEN, Parameters, enter, initial, leave

VALIDATION_SHARE = 0.2  # of the training rows
# Wide enough for the choices on validation of BCE and of the others on the seven sets of the committed run.
LEARNING_RATES = (1e-3, 0.05)  # from, to
DECAYS = (0.0, 1.0)


class Budget(NamedTuple):
    """The same for every loss, model and set."""

    steps: int = 600
    checkpoints: int = 12
    batch: int = 128


class Part(NamedTuple):
    """The rows of one seed."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Configuration(NamedTuple):
    """What a loss may choose; 0 for a knob that it has not."""

    learning_rate: float
    decay: float
    knob: float


def divide(dataset: Dataset, seed: int) -> Part:
    """The split of the examples; its training rows lose some, which the seed chooses, to validation."""
    part = split(dataset, seed)
    order = np.random.default_rng(seed).permutation(len(part.y_train))
    rest, held = np.split(order, [len(order) - round(VALIDATION_SHARE * len(order))])
    x, y = part.x_train, part.y_train
    return Part(x[rest], y[rest], x[held], y[held], part.x_test, part.y_test)


def grid(loss: Loss) -> list[Configuration]:
    """16 for every loss: the values of a knob are paid for by learning rates, which are less dense then."""
    rates = np.geomspace(*LEARNING_RATES, 8 if len(loss.values) < 2 else 4).round(6).tolist()
    return [Configuration(*chosen) for chosen in product(rates, DECAYS, loss.values or (0,))]


def train(loss: Loss, model: str, part: Part, *, seed: int, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the validation and of the test rows, each of shape (configurations, checkpoints, rows, classes)."""
    configurations = grid(loss)
    random = np.random.default_rng(seed)
    batches = _batches(random, len(part.y_train), budget)
    share = _shares(random, loss, configurations, budget)
    constants = () if loss.per_class is None else (jnp.asarray(loss.per_class(part.y_train)),)
    features = jnp.asarray(part.x_train), jnp.asarray(part.y_train, jnp.int32), part.x_validation, part.x_test
    keys, settings = jax.random.split(jax.random.key(seed)), jnp.asarray(configurations, jnp.float32)
    found = _all(loss, HIDDEN[model], settings, share, keys, batches, constants, *features)
    return tuple(np.asarray(logits) for logits in found)


def _batches(random: np.random.Generator, rows: int, budget: Budget) -> np.ndarray:
    """Row numbers, by checkpoint and step: every row once before any comes again."""
    wanted = budget.steps * budget.batch
    orders = [random.permutation(rows) for _ in range(-(-wanted // rows))]
    return np.concatenate(orders)[:wanted].reshape(budget.checkpoints, -1, budget.batch)


def _shares(random: np.random.Generator, loss: Loss, grid: list[Configuration], budget: Budget) -> np.ndarray:
    """What mixup leaves of an example, by configuration, checkpoint and step."""
    shape = len(grid), budget.checkpoints, budget.steps // budget.checkpoints
    if not loss.mixup:
        return np.ones(shape, np.float32)
    alpha = np.array([configuration.knob for configuration in grid])[:, None, None]
    return random.beta(alpha, alpha, shape).astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0, 0, *[None] * 7))
def _all(loss, hidden, setting, shares, keys, batches, constants, x, y, x_validation, x_test):
    """The training of one model, which vmap makes that of one for each setting."""
    rate, decay, knob = setting
    optimizer = optax.adamw(rate, weight_decay=decay, mask=_decayed)
    given = (*((knob,) if loss.values else ()), *constants)

    def step(state, inputs):
        parameters, memory, number = state
        batch, share = inputs
        dropout = jax.random.fold_in(keys[1], number)
        slope = jax.grad(_mean_loss)(parameters, loss, dropout, x[batch], y[batch], share, given)
        update, memory = optimizer.update(slope, memory, parameters)
        return (optax.apply_updates(parameters, update), memory, number + 1), None

    def stage(state, inputs):
        state, _ = jax.lax.scan(step, state, inputs)
        return state, tuple(leave(state[0], enter(state[0], rows)) for rows in (x_validation, x_test))

    widths = x.shape[1], *hidden, y.shape[1]
    start = initial(keys[0], widths, threshold=loss.threshold)
    return jax.lax.scan(stage, (start, optimizer.init(start), 0), (batches, shares))[1]


def _mean_loss(parameters, loss, key, x, y, share, given):
    """Of one batch, mixed with itself in reverse where the loss asks for it."""
    before = enter(parameters, x)
    if loss.mixup:
        before, y = (share * part + (1 - share) * part[::-1] for part in (before, y))
    passes = [leave(parameters, before, jax.random.fold_in(key, number)) for number in range(loss.passes)]
    logits = passes[0] if loss.passes == 1 else jnp.stack(passes)
    return loss.function(logits, y, *given).mean()


def _decayed(parameters: list[Parameters]) -> list[dict[str, bool]]:
    """Weights are; biases and thresholds are not."""
    return [{name: name == "weight" for name in layer} for layer in parameters]
