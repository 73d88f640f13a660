"""The benchmark measures every candidate."""

from quick_benchmark import BOTH_PASSES, FAMILY, check_that_a_gpu_is_missed, holds_the_gradient, quick_run


def test_quick(tmp_path):
    found = quick_run("jax", tmp_path)
    assert set(found) == {(name, part) for name in ("zlpr", "optax BCE", "optax focal") for part in BOTH_PASSES}
    assert all(holds_the_gradient(row) for row in found.values())


def test_quick_linear(tmp_path):
    found = quick_run("jax", tmp_path, "linear")
    assert {name for name, _ in found} == {"dense BCE", "dense zlpr", "zlpr", "zlpr, class ids"}


def test_quick_family(tmp_path):
    found = quick_run("jax", tmp_path, "family")
    assert {name for name, _ in found} >= FAMILY
    assert {part for _, part in found} == set(BOTH_PASSES)


def test_quick_gpu(tmp_path):
    """On a CPU where there is no GPU: that the program works."""
    found = quick_run("jax", tmp_path, "gpu")
    assert set(found) == {(name, part) for name in ("zlpr", "optax BCE") for part in ("device", "step")}
    assert all(holds_the_gradient(row) for row in found.values())


def test_a_gpu_that_is_not_there_is_missed():
    check_that_a_gpu_is_missed("jax")
