"""DTensors: the loss of whole rows from logits, or layers, that are sharded on the classes, the rows or both."""

import subprocess
import sys
from functools import cache

import pytest
import torch
from torch.nn.functional import linear
from torch_processes import run

from zlpr_torch import multi_hot, zlpr_loss

ROWS, FEATURES = 6, 5
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
WORKER = "torch_dtensors.py"


def problem(task, mesh, axes, reduction="mean", *, classes=10, kind="plain", sparse=False):
    generator = torch.Generator().manual_seed(len(axes))
    ids = torch.randint(-1, classes, (ROWS, 3), generator=generator)
    ids[0] = -1
    options = {"reduction": reduction}
    if kind == "masked":
        options["mask"] = torch.rand(ROWS, classes, generator=generator) < 0.7
        options["mask"][2] = False
        options |= {"weight": [1.5, *[1.0] * (classes - 1)], "threshold": torch.linspace(-1, 1, ROWS)[:, None]}
    return {
        "task": task,
        "mesh": mesh,
        "axes": axes,
        "sparse": sparse,
        "x": torch.randn(ROWS, FEATURES, generator=generator),
        "encoder": torch.randn(FEATURES, FEATURES, generator=generator),
        "weight": torch.randn(classes, FEATURES, generator=generator),
        "bias": torch.randn(classes, generator=generator),
        "targets": multi_hot(ids, classes),
        "ids": ids,
        "options": options,
        "upstream": torch.rand(ROWS if reduction == "none" else (), generator=generator) + 0.5,
    }


MESHES = [
    ((2,), ("classes",), "mean", {}),
    ((3,), ("classes",), "none", {"kind": "masked"}),
    ((4,), ("classes",), "sum", {}),  # 3, 3, 3 and 1
    ((4,), ("classes",), "mean", {"classes": 9, "kind": "masked"}),  # 3, 3, 3 and none
    ((4,), ("rows",), "mean", {"kind": "masked"}),  # 2, 2, 2 and none
    ((2, 2), ("rows", "classes"), "mean", {}),
    ((2, 2), ("classes", "rows"), "mean", {"kind": "masked"}),
    ((2, 2), ("rows", "classes"), "none", {"kind": "masked"}),
    ((2, 2), ("rows", "classes"), "sum", {"classes": 300}),  # more than one chunk
]


PARALLEL = [
    ((2,), ("classes",), False),
    ((3,), ("classes",), True),
    ((2, 2), ("rows", "classes"), False),
]
REFUSALS = ((1, 2), ("rows", "classes"))


@pytest.fixture(scope="module")
def found_of(tmp_path_factory):
    """What each process found of a problem. Those for the same number of processes are run together, as a start takes
    longer than all of them."""
    problems = [problem("losses", *given, **kind) for *given, kind in MESHES]
    problems += [problem("parallel", *given, sparse=sparse) for *given, sparse in PARALLEL]
    problems.append(problem("refusals", *REFUSALS))

    @cache
    def found_by(world):
        cases = [given for given in problems if torch.Size(given["mesh"]).numel() == world]
        found = run(WORKER, tmp_path_factory.mktemp("mesh"), {"cases": cases}, world)
        return {str(given): each for given, each in zip(cases, zip(*found, strict=True), strict=True)}

    return lambda given: found_by(torch.Size(given["mesh"]).numel())[str(given)]


@pytest.mark.parametrize(("mesh", "axes", "reduction", "kind"), MESHES, ids=str)
def test_dtensors_have_the_loss_of_whole_rows(found_of, mesh, axes, reduction, kind):
    """Values, gradients, their placements, and one exchange of 16 bytes a row, 20 with a mask."""
    given = problem("losses", mesh, axes, reduction, **kind)
    arrays = [given[name].clone().requires_grad_() for name in ("x", "weight", "bias")]
    logits = linear(*arrays)
    loss = zlpr_loss(logits, given["targets"], **given["options"])
    expected = torch.autograd.grad((loss * given["upstream"]).sum(), [*arrays, logits])
    for found in found_of(given):
        for form, own in found.items():
            value, placed = own["loss"]
            torch.testing.assert_close(value, loss.detach(), rtol=1e-6, atol=0)
            assert (placed is None) == ("plain" in form)
            for (gradient, _), right in zip(own["gradients"], expected[:3] if "linear" in form else expected[3:], strict=True):  # fmt: skip
                torch.testing.assert_close(gradient, right, **CLOSE)
            assert_placements(axes, own, form, reduction)
            if axes == ("classes",):
                numbers = 5 if "mask" in given["options"] else 4
                assert own["forward"] == ([("all_gather", 4 * numbers * ROWS)], 1)
                reduced = [("all_reduce", 4 * ROWS * FEATURES)] if "linear" in form else []
                assert own["backward"] == (reduced, len(reduced))


def assert_placements(axes, own, form, reduction):
    """Of the loss and the gradients: those that loss and arguments have."""

    def text(**sharded):
        places = [f"Shard(dim={sharded[name]})" if name in sharded else "Replicate()" for name in axes]
        return f"({', '.join(places)}{',' * (len(axes) == 1)})"

    if "plain" not in form:
        assert plain(own["loss"][1]) == plain(text(rows=0) if reduction == "none" else text())
    right = [text(rows=0), text(classes=0), text(classes=0)] if "linear" in form else [text(rows=0, classes=1)]
    placed = [place for _, place in own["gradients"]]
    if "plain" in form:
        assert placed.pop(0) is None
        right.pop(0)
    assert list(map(plain, placed)) == list(map(plain, right))


def plain(places):
    """As every version of PyTorch writes them."""
    return places.replace("Replicate()", "R").replace("Shard(dim=", "S(")


@pytest.mark.parametrize(("mesh", "axes", "sparse"), PARALLEL, ids=str)
def test_a_head_under_parallelize_module(found_of, mesh, axes, sparse):
    """``ColwiseParallel`` of ``nn.Linear`` and of ``LinearZLPRLoss``, beside ``fully_shard`` on other processes' rows."""
    given = problem("parallel", mesh, axes, sparse=sparse)
    names = {"encoder.weight": given["encoder"], "encoder.bias": torch.zeros(FEATURES), "head.weight": given["weight"], "head.bias": given["bias"]}  # fmt: skip
    parameters = {name: value.clone().requires_grad_() for name, value in names.items()}
    logits = linear(torch.tanh(linear(given["x"], *[parameters[n] for n in list(names)[:2]])), *[parameters[n] for n in list(names)[2:]])  # fmt: skip
    found = found_of(given)
    for form in ("dense", "linear"):
        weight = None if form == "linear" or sparse else torch.linspace(0.5, 2, len(given["weight"]))
        loss = zlpr_loss(logits, given["targets"], weight=weight)
        gradients = dict(zip(names, torch.autograd.grad(loss, parameters.values(), retain_graph=True), strict=True))
        values = [own[form]["loss"] for own in found]
        assert sum(values) / len(values) == pytest.approx(loss.item(), rel=1e-6)
        for own in found:
            assert (own[form]["placed"] is None) == (form == "linear")
            for name, gradient in gradients.items():
                torch.testing.assert_close(own[form]["gradients"][name], gradient, **CLOSE)


CUT_OTHERWISE = "ValueError: A DTensor must have its 10 classes as torch.chunk cuts them."
REFUSED = {
    "partial": "ValueError: DTensors must be placed so that",
    "twice": "ValueError: DTensors must be placed so that",
    "features": "ValueError: DTensors must be placed so that",
    "same dimension": "ValueError: DTensors must be placed so that",
    "local target": "ValueError: `target` beside DTensors must be",
    "local weight": "ValueError: `weight` beside DTensors must be",
    "plain logits": "TypeError: `input` must be a DTensor where another argument is.",
    "plain logits, ids": "TypeError: `input` must be a DTensor where another argument is.",
    "plain layer": "TypeError: `input` or `linear_weight` must be a DTensor where another argument is.",
    "group": "ValueError: `group` and `class_range` are what DTensors tell.",
    "lists": "TypeError: `indices` must be a tensor where rows are sharded. Received: list.",
    "learned": "NotImplementedError: With `group`, sharded classes or",
    "hook": "NotImplementedError: `weight_grad_hook` gets no gradient of all rows",
    "other mesh": "ValueError: `target` must be on the mesh of the logits",
    "cut otherwise": CUT_OTHERWISE,
    "cut otherwise by one": (CUT_OTHERWISE, "RuntimeError: The loss failed on rank 0 of the process group"),
}


def test_what_is_refused(found_of):
    for found in found_of(problem("refusals", *REFUSALS)):
        assert found.keys() == REFUSED.keys()
        for name, text in REFUSED.items():
            assert str(found[name]).startswith(text), (name, found[name])


def test_nobody_else_pays_for_the_import():
    """``torch.distributed.tensor`` takes longer to import than this package."""
    told = (
        "import sys, torch; before = 'torch.distributed.tensor' in sys.modules; import zlpr_torch; "
        "head = torch.nn.Linear(2, 3); zlpr_torch.zlpr_loss(head(torch.ones(1, 2)), torch.ones(1, 3)).backward(); "
        "zlpr_torch.linear_zlpr_loss(torch.ones(1, 2), head.weight, torch.ones(1, 3)).backward(); "
        "assert ('torch.distributed.tensor' in sys.modules) == before and 'zlpr_torch._dtensor' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
