"""The benchmark measures every candidate, functions under XLA and training steps of Keras."""

from quick_benchmark import BOTH_PASSES, FAMILY, holds_the_gradient, quick_run


def test_quick(tmp_path):
    found = quick_run("tf", tmp_path)
    functions = {(name, part) for name in ("zlpr", "tf.nn BCE") for part in BOTH_PASSES}
    assert set(found) == functions | {(name, "training step") for name in ("keras zlpr", "keras BCE")}
    assert all(holds_the_gradient(found[key]) for key in functions)


def test_quick_family(tmp_path):
    found = quick_run("tf", tmp_path, "family")
    assert {name for name, _ in found} >= FAMILY
    assert {part for _, part in found} == set(BOTH_PASSES)


def test_quick_linear(tmp_path):
    found = quick_run("tf", tmp_path, "linear")
    ours = {"zlpr", "zlpr, class ids", "zlpr, 128 classes", "zlpr, no XLA"}
    assert {name for name, _ in found} == {"dense BCE", "dense zlpr"} | ours
    told = {name for (name, _), row in found.items() if row["peak_bytes"]}
    assert told == {"dense BCE", "dense zlpr"} | ours - {"zlpr, no XLA"}
