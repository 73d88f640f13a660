"""A layer whose classes are spread over eight devices: the same numbers, and nothing but numbers of a row is exchanged."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax import linear_zlpr_loss, sparse_linear_zlpr_loss, sparse_zlpr_loss, zlpr_loss

RNG = np.random.default_rng(0)
ROWS, FEATURES, CLASSES, DEVICES = 6, 4, 80, 8
X, KERNEL = RNG.normal(size=(ROWS, FEATURES)).astype("float32"), RNG.normal(size=(FEATURES, CLASSES)).astype("float32")
HARD = RNG.random((ROWS, CLASSES)) < 0.1
HARD[0], HARD[1] = False, True
HARD[2:, :30] = False  # devices without a positive
IDS = np.full((ROWS, CLASSES), -1)
for slots, labels in zip(IDS, HARD, strict=True):
    slots[: labels.sum()] = np.flatnonzero(labels)
WHERE = np.arange(CLASSES) < CLASSES - 3  # as where the classes do not divide among the devices
COLUMNS = P(None, "model")
ROW, INPUTS = f"f32[{ROWS}]", f"f32[{ROWS},{FEATURES}]"


def expected(where=None):
    """Loss, and gradients in the inputs and the kernel, on one device."""

    def whole(x, kernel):
        return zlpr_loss(x @ kernel, HARD, where=where).mean()

    return whole(X, KERNEL), jax.grad(whole, (0, 1))(X, KERNEL)


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((DEVICES,), ("model",), axis_types=(kind,))


def exchanged(compiled):
    """Each collective and what it exchanges."""
    found = re.finditer(r" = (\S.*?) (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\(", compiled.as_text())
    shapes = {(match[2], shape) for match in found for shape in re.findall(r"\w+\[[\d,]*\]", match[1])}
    return {(name, shape.replace(",1]", "]")) for name, shape in shapes}


def check(step, arrays, traffic, where=None):
    """Value, gradients, and all that the devices say to each other."""
    compiled = step.lower(*arrays).compile()
    (loss, gradients), (true, slopes) = compiled(*arrays), expected(where)
    np.testing.assert_allclose(loss, true, rtol=1e-6)
    for one, other in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    assert exchanged(compiled) == {("all-reduce", shape) for shape in traffic}
    return gradients


@pytest.mark.parametrize("chunk", [CLASSES, 40, 16], ids=["one chunk", "two", "five"])
@pytest.mark.parametrize("ids", [False, True], ids=["dense", "ids"])
def test_under_jit_with_a_sharding(ids, chunk):
    """Each device has its share of every chunk, and keeps its part of the kernel's gradient."""
    columns = NamedSharding(mesh(), COLUMNS)
    loss = sparse_linear_zlpr_loss if ids else linear_zlpr_loss
    labels = IDS if ids else jax.device_put(HARD, columns)
    step = jax.jit(jax.value_and_grad(lambda x, k: loss(x, k, labels, chunk=chunk).mean(), (0, 1)))
    gradients = check(step, (X, jax.device_put(KERNEL, columns)), {ROW, INPUTS})
    assert gradients[1].sharding.is_equivalent_to(columns, ndim=2)


FORMS = {
    "dense": lambda x, k, labels, **options: zlpr_loss(x @ k, labels, **options),
    "ids": lambda x, k, _, **options: sparse_zlpr_loss(x @ k, IDS, **options),
    "linear": lambda x, k, labels, **options: linear_zlpr_loss(x, k, labels, chunk=4, **options),
    "linear ids": lambda x, k, _, **options: sparse_linear_zlpr_loss(x, k, IDS, chunk=4, **options),
}


@pytest.mark.parametrize("masked", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_inside_shard_map(form, masked):
    """The whole row's loss on every device; backward exchanges nothing for the logits, and the sum for the inputs."""

    def of_device(x, kernel, labels, where):
        options = {"where": where} if masked else {}
        return form(x, kernel, labels, axis_name="model", **options).mean()

    specs = {"in_specs": (P(), COLUMNS, COLUMNS, P("model")), "out_specs": P()}
    whole = jax.shard_map(of_device, mesh=mesh(), **specs)
    step = jax.jit(jax.value_and_grad(lambda x, k: whole(x, k, HARD, WHERE), (0, 1)))
    check(step, (X, KERNEL), {ROW, INPUTS}, WHERE if masked else None)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradient_taken_on_each_device(form):
    """As a training step inside ``shard_map`` takes it: each device gets its part of the kernel's gradient."""

    def step(x, kernel, labels):
        return jax.value_and_grad(lambda k: form(x, k, labels, axis_name="model").mean())(kernel)

    specs = {"in_specs": (P(), COLUMNS, COLUMNS), "out_specs": (P(), COLUMNS)}
    loss, gradient = jax.jit(jax.shard_map(step, mesh=mesh(), **specs))(X, KERNEL, HARD)
    true, (_, slope) = expected()
    np.testing.assert_allclose(loss, true, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-7)


def test_logits_exchange_numbers_of_a_row_and_only_forward():
    """The largest shift and the sum of either half: 16 bytes a row."""

    def of_device(logits, labels):
        return zlpr_loss(logits, labels, axis_name="model").sum()

    whole = jax.shard_map(of_device, mesh=mesh(), in_specs=(COLUMNS, COLUMNS), out_specs=P())
    logits = jnp.asarray(X @ KERNEL)
    forward = jax.jit(whole).lower(logits, HARD).compile()
    both = jax.jit(jax.value_and_grad(whole)).lower(logits, HARD).compile()
    assert exchanged(forward) == exchanged(both) == {("all-reduce", ROW)}
    assert forward.as_text().count(" all-reduce(") == both.as_text().count(" all-reduce(")


def test_options_and_second_order_inside_shard_map():
    weight = RNG.random(CLASSES).astype("float32")

    def of_device(logits, labels, weight, threshold):
        return zlpr_loss(logits, labels, weight=weight, threshold=threshold, axis_name="model").sum()

    specs = {"in_specs": (COLUMNS, COLUMNS, P("model"), P("model")), "out_specs": P()}
    whole = jax.shard_map(of_device, mesh=mesh(), **specs)
    arrays = jnp.asarray(X @ KERNEL), HARD, weight, np.zeros(CLASSES, "float32")

    def single(logits, labels, weight, threshold):
        return zlpr_loss(logits, labels, weight=weight, threshold=threshold).sum()

    found, true = (jax.jit(jax.grad(f, (0, 2, 3)))(*arrays) for f in (whole, single))
    for one, other in zip(found, true, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    tangent = jnp.ones_like(arrays[0])
    products = (
        jax.jvp(jax.grad(lambda s, of=f: of(s, *arrays[1:])), (arrays[0],), (tangent,))[1] for f in (whole, single)
    )
    np.testing.assert_allclose(*products, rtol=1e-3, atol=1e-5)


def test_an_illegal_id_is_nan_on_every_device():
    ids = np.where(np.arange(ROWS)[:, None] == 3, CLASSES, IDS[:, :1])

    def of_device(logits):
        return sparse_zlpr_loss(logits, ids, axis_name="model")

    found = jax.shard_map(of_device, mesh=mesh(), in_specs=(COLUMNS,), out_specs=P())(X @ KERNEL)
    assert np.isnan(found).tolist() == [row == 3 for row in range(ROWS)]


def test_ids_of_several_devices_are_on_the_last_axis():
    def of_device(logits):
        return sparse_zlpr_loss(logits.T, IDS, axis=0, axis_name="model")

    with pytest.raises(
        ValueError, match=r"^`axis` must be the last one where ids count the classes of several devices"
    ):
        jax.shard_map(of_device, mesh=mesh(), in_specs=(COLUMNS,), out_specs=P())(X @ KERNEL)
