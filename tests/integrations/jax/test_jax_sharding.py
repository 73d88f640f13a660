"""Arrays sharded over eight devices: the same numbers, while the devices exchange one number a row or a batch only."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import zlpr_core
from zlpr_jax import rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss

RNG = np.random.default_rng(0)
ROWS, CLASSES = 16, 40
LOGITS = RNG.normal(0, 3, (ROWS, CLASSES)).astype("float32")
HARD, SOFT = RNG.random((ROWS, CLASSES)) < 0.2, RNG.random((ROWS, CLASSES)).astype("float32")
WHERE, WEIGHT = RNG.random((ROWS, CLASSES)) < 0.8, RNG.random(CLASSES).astype("float32")
MOVES = "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|ragged-all-to-all|reduce-scatter"
COLLECTIVE = re.compile(rf" = (?P<shapes>\S.*?) (?P<name>{MOVES})(-start)?\(")

every_label = pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
every_axis_type = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])


def mesh(kind, **sizes):
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


def collectives(compiled):
    """What the devices exchange: name and shapes of each collective of the compiled program, layouts left out."""
    found = COLLECTIVE.finditer(compiled.as_text())
    return {(match["name"], shape) for match in found for shape in re.findall(r"\w+\[[\d,]*\]", match["shapes"])}


def mean_loss(logits, labels, where, weight):
    return zlpr_loss(logits, labels, where=where, weight=weight, threshold=0.5).mean()


def check(kind, sizes, spec, labels, expected_traffic):
    """Value and gradient of the mean are NumPy's, the gradient is sharded as the logits are, the traffic is as given."""
    here = NamedSharding(mesh(kind, **sizes), P(*spec))
    rest = NamedSharding(here.mesh, P(spec[1]))
    arguments = [jax.device_put(a, here) for a in (LOGITS, labels, WHERE)] + [jax.device_put(WEIGHT, rest)]
    compiled = jax.jit(jax.value_and_grad(mean_loss)).lower(*arguments).compile()
    loss, gradient = compiled(*arguments)
    options = {"where": WHERE, "weight": WEIGHT, "threshold": 0.5}
    np.testing.assert_allclose(loss, zlpr_core.zlpr(LOGITS, labels, **options).mean(), rtol=1e-6)
    expected = zlpr_core.zlpr_grad(LOGITS, labels, **options) / ROWS
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)
    assert gradient.sharding.is_equivalent_to(here, ndim=2)
    assert collectives(compiled) == expected_traffic


@every_axis_type
@every_label
def test_sharded_batch_exchanges_the_mean_only(labels, kind):
    check(kind, {"data": 8}, ("data", None), labels, {("all-reduce", "f32[]")})


@every_axis_type
@every_label
def test_sharded_classes_exchange_numbers_by_the_row(labels, kind):
    """The largest logit and the sum of each half, in the forward pass. The backward pass exchanges nothing."""
    check(kind, {"model": 8}, (None, "model"), labels, {("all-reduce", f"f32[{ROWS}]")})


@every_axis_type
@every_label
def test_both_sharded(labels, kind):
    traffic = {("all-reduce", f"f32[{ROWS // 2}]"), ("all-reduce", "f32[]")}
    check(kind, {"data": 2, "model": 4}, ("data", "model"), labels, traffic)


OTHER, IDS = LOGITS[::-1].copy(), RNG.integers(-1, CLASSES, (ROWS, 3))
RELATIVES = {"ids": (sparse_zlpr_loss, [IDS]), "rdrop": (rdrop_zlpr_loss, [OTHER, HARD])}
LAYOUTS = {
    "batch": ({"data": 8}, ("data", None), {"f32[]"}),
    "classes": ({"model": 8}, (None, "model"), {f"f32[{ROWS}]"}),
    "both": ({"data": 2, "model": 4}, ("data", "model"), {f"f32[{ROWS // 2}]", "f32[]"}),
}


@every_axis_type
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("relative", RELATIVES.values(), ids=RELATIVES)
def test_relatives_exchange_no_more(relative, layout, kind):
    """Ids are sharded by rows alone: every device that has a part of a row has all its ids."""
    (function, others), (sizes, spec, traffic) = relative, layout
    here = NamedSharding(mesh(kind, **sizes), P(*spec))
    rows = NamedSharding(here.mesh, P(spec[0]))
    arguments = [jax.device_put(a, rows if a is IDS else here) for a in (LOGITS, *others)]
    step = jax.jit(jax.value_and_grad(lambda *a: function(*a).mean()))
    compiled = step.lower(*arguments).compile()
    (loss, gradient), expected = compiled(*arguments), step(LOGITS, *others)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)
    assert gradient.sharding.is_equivalent_to(here, ndim=2)
    assert collectives(compiled) == {("all-reduce", shape) for shape in traffic}


def test_a_gather_would_be_seen():
    """`collectives` sees them: a log-sum-exp with a zero logit appended exchanges more than sums."""
    here = NamedSharding(mesh(AxisType.Auto, model=8), P(None, "model"))

    def with_zero(logits):
        return jax.nn.logsumexp(jnp.concatenate([logits, jnp.zeros((ROWS, 1))], -1), axis=-1)

    compiled = jax.jit(with_zero).lower(jax.device_put(LOGITS, here)).compile()
    assert {name for name, _ in collectives(compiled)} > {"all-reduce"}
    gather = jax.jit(lambda x: x, out_shardings=NamedSharding(here.mesh, P())).lower(jax.device_put(LOGITS, here))
    assert collectives(gather.compile()) == {("all-gather", f"f32[{ROWS},{CLASSES}]")}


@every_label
def test_several_gpus_wait_for_no_condition(labels, monkeypatch):
    """They would have to agree on it."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "cond[" not in str(jax.make_jaxpr(zlpr_loss)(LOGITS, labels))
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "cond[" in str(jax.make_jaxpr(lambda *arrays: zlpr_loss(*arrays))(LOGITS, labels))


@every_label
def test_inside_shard_map(labels):
    rows = mesh(AxisType.Auto, data=8)

    def mean_of_shards(logits, labels):
        return jax.lax.pmean(zlpr_loss(logits, labels).mean(), "data")

    sharded = jax.shard_map(mean_of_shards, mesh=rows, in_specs=(P("data"), P("data")), out_specs=P())
    loss, gradient = jax.jit(jax.value_and_grad(sharded))(LOGITS, labels)
    np.testing.assert_allclose(loss, zlpr_core.zlpr(LOGITS, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, zlpr_core.zlpr_grad(LOGITS, labels) / ROWS, rtol=1e-4, atol=1e-8)


def test_training_on_a_mesh_is_training_on_one_device():
    """Rows over two devices, the classes of the output layer over four."""
    x, adam = RNG.normal(size=(ROWS, 8)).astype("float32"), optax.adam(0.1)
    kernel = jnp.asarray(RNG.normal(size=(8, CLASSES)), "float32")

    @jax.jit
    def train(kernel, x, labels):
        def step(carry, _):
            kernel, state = carry
            loss, gradient = jax.value_and_grad(lambda k: zlpr_loss(x @ k, labels).mean())(kernel)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(kernel, updates), state), loss

        (kernel, _), losses = jax.lax.scan(step, (kernel, adam.init(kernel)), length=5)
        return kernel, losses

    devices = mesh(AxisType.Auto, data=2, model=4)
    specs = {"kernel": P(None, "model"), "x": P("data"), "labels": P("data", "model")}
    single = {"kernel": kernel, "x": x, "labels": HARD}
    spread = {name: jax.device_put(single[name], NamedSharding(devices, spec)) for name, spec in specs.items()}
    for got, expected in zip(train(**spread), train(**single), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
