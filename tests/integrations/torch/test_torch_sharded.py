"""Classes spread over processes: whole rows' loss on each, its own gradient, and one exchange of 16 bytes a row."""

from functools import partial

import pytest
import torch
import torch_processes
from torch.nn.functional import linear

from zlpr_torch import _group, _sharded, zlpr_loss

ROWS, FEATURES, CLASSES = 8, 5, 600
start, codes_of, run = (
    partial(getattr(torch_processes, name), "torch_shards.py") for name in ("start", "codes_of", "run")
)
ENDS = {2: [0, 450, 600], 3: [0, 10, 400, 600], 4: [0, 150, 300, 301, 600]}  # one process has a single class
PROMISED = {torch.float32: 1e-6, torch.float64: 1e-13}  # of the largest number of an array


def problem(world, reduction, *, masked=False, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(world)
    targets = torch.rand(ROWS, CLASSES, generator=generator) < 0.01
    targets[:, : ENDS[world][1]] = False  # the first process has no positive
    targets[0] = False
    targets[1, 400:] = True
    ids = torch.full((ROWS, 220), -1)
    for slots, row in zip(ids, targets, strict=True):
        slots[: row.sum()] = row.nonzero()[:, 0]
    options = {"reduction": reduction}
    if masked:
        options["mask"] = torch.rand(ROWS, CLASSES, generator=generator) < 0.8
        options["mask"][2] = False
    return {
        "x": (scale * torch.randn(ROWS, FEATURES, generator=generator)).to(dtype),
        "weight": torch.randn(CLASSES, FEATURES, generator=generator).to(dtype),
        "bias": torch.randn(CLASSES, generator=generator).to(dtype),
        "targets": targets,
        "ids": ids,
        "options": options,
        "ends": ENDS[world],
        "upstream": (torch.rand(ROWS if reduction == "none" else (), generator=generator) + 0.5).to(dtype),
        "crash": None,
        "hook_raises": None,
        "fails": None,
        "ignore_index": None,
        "told": ENDS[world][:-1],
    }


FORMS = ("dense", "ids", "linear", "linear ids", "linear ids, told")
CASES = [
    (2, "mean", {}),
    (3, "none", {}),
    (3, "none", {"dtype": torch.float64}),
    (3, "mean", {"masked": True}),
    (3, "sum", {"scale": 200.0}),
    (3, "sum", {"scale": 200.0, "dtype": torch.float64}),
    (4, "mean", {}),
]


def on_one_process(given):
    """The loss, its gradients, and how far those of slices may be off them: the rounding of the products counts too."""
    arrays = [given[name].double().requires_grad_() for name in ("x", "weight", "bias")]
    logits = linear(*arrays)
    loss = zlpr_loss(logits, given["targets"], **given["options"])
    gradients = torch.autograd.grad((loss * given["upstream"]).sum(), arrays)
    dtype = given["x"].dtype
    return loss.detach(), gradients, PROMISED[dtype] + torch.finfo(dtype).eps / 2 * logits.abs().max().item()


def assert_near(found, expected, bound):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= bound * expected.abs().max() + torch.finfo(found.dtype).tiny


@pytest.mark.parametrize(("world", "reduction", "kind"), CASES, ids=lambda case: str(case))
def test_every_process_has_the_loss_of_whole_rows(tmp_path, world, reduction, kind):
    """Uneven slices, a process and rows without a positive, a row that is masked out, logits beyond the range of exp."""
    given = problem(world, reduction, **kind)
    loss, (in_x, in_weight, in_bias), bound = on_one_process(given)
    found = run(tmp_path, given, world)
    size = given["x"].element_size()
    numbers = size * (5 if "mask" in given["options"] else 4)
    plain, checked = ("all_gather", numbers * ROWS), ("all_gather", numbers * (ROWS + 3))
    exchanges = {"ids": [checked], "linear ids, told": [checked], "linear ids": [("all_gather", 8), plain]}
    for form in FORMS:
        for rank, own in enumerate(found):
            part, of_form = slice(*given["ends"][rank : rank + 2]), own[form]
            torch.testing.assert_close(of_form["loss"].double(), loss, rtol=PROMISED[given["x"].dtype], atol=0)
            assert_near(of_form["gradients"][1], in_weight[part], bound)
            assert_near(of_form["gradients"][2], in_bias[part], bound)
            assert of_form["forward"] == exchanges.get(form, [plain])
            if form.startswith("linear"):
                assert_near(of_form["gradients"][0], in_x, bound)
                assert of_form["backward"] == [("all_reduce", size * ROWS * FEATURES)]
            else:
                assert of_form["backward"] == []
        if not form.startswith("linear"):  # the layer is the user's own, and so is the sum over the processes
            assert_near(sum(own[form]["gradients"][0] for own in found), in_x, bound)


def test_the_processes_say_the_same_to_the_last_digit(tmp_path):
    found = run(tmp_path, problem(3, "none"), 3)
    for form in found[0]:
        assert all(torch.equal(found[0][form]["loss"], own[form]["loss"]) for own in found)


def test_a_process_that_dies_leaves_none_waiting(tmp_path):
    processes = start(tmp_path, problem(3, "mean") | {"crash": 1}, 3)
    codes = [process.wait(120) for process in processes]
    assert codes[1] == 3
    assert all(code != 0 for code in codes)


FAILING = {
    "plain": ({}, {}),
    "masked": ({"masked": True}, {}),
    "ignoring": ({}, {"ignore_index": -1}),
    "float64": ({"dtype": torch.float64}, {}),
}


@pytest.mark.parametrize(("kind", "change"), FAILING.values(), ids=FAILING)
def test_arguments_that_fail_leave_none_waiting(tmp_path, kind, change):
    """One process says what is wrong, the others that it failed, and the next call is in step again."""
    given = problem(3, "mean", **kind) | change | {"fails": 1}
    loss = zlpr_loss(linear(given["x"], given["weight"], given["bias"]), given["targets"], **given["options"]).item()
    found = run(tmp_path, given, 3)
    assert found[0].keys() == {f"{form}, {how}" for form in FORMS for how in ("targets", "options")}
    for name in found[0]:
        said, after = zip(*(own[name] for own in found), strict=True)
        assert said[1].startswith(("ValueError: `", "IndexError: `indices`"))
        others = "RuntimeError: The loss failed on rank 1 of the process group before the exchange."
        assert all(text.startswith(others) for text in (said[0], said[2])), (name, said)
        assert after == pytest.approx([loss] * 3, rel=1e-6)
        assert f"This process fails, and tells its group: {said[1]}" in (tmp_path / "said-1.txt").read_text("utf-8")


def test_a_hook_that_raises_leaves_none_waiting(tmp_path):
    """The others learn of it by a gradient that is NaN."""
    assert codes_of(tmp_path, problem(3, "mean") | {"hook_raises": 1}, 3) == [0, 1, 0]
    assert "MemoryError" in (tmp_path / "said-1.txt").read_text(encoding="utf-8")
    assert all(torch.load(tmp_path / f"found-{rank}.pt").isnan().all() for rank in (0, 2))


def test_ranges_that_do_not_add_up_are_refused_by_all(tmp_path):
    given = problem(3, "mean") | {"told": [0, 10, 390]}  # 10 classes of the second are the third's too
    assert codes_of(tmp_path, given, 3) == [1, 1, 1]
    text = (
        "the processes must have every class once. Received: (0, 600) with 10, (10, 600) with 390, (390, 600) with 200."
    )
    assert all(text in (tmp_path / f"said-{rank}.txt").read_text(encoding="utf-8") for rank in range(3))


@pytest.mark.parametrize(
    ("parts", "right"),
    [
        ([[0, 5, 8], [5, 3, 8]], True),
        ([[5, 3, 8], [0, 5, 8]], True),  # in any order
        ([[0, 2**40, 2**40 + 1], [2**40, 1, 2**40 + 1]], True),
        ([[0, 5, 8], [4, 4, 8]], False),
        ([[0, 5, 9], [5, 3, 9]], False),
        ([[0, 5, 8], [5, 3, 9]], False),
        ([[-1, 5, 8], [4, 4, 8]], False),
    ],
    ids=str,
)
def test_ranges(parts, right):
    like = torch.zeros(4, 2)
    written = [_group._read(_group._written([*part, True], like)) for part in parts]
    if right:
        assert written == parts
        _group._check_parts(written)
    else:
        with pytest.raises(ValueError, match=r"^`class_range` must be \(first class of the process, classes in all\)"):
            _group._check_parts(written)


def test_gradients_that_cannot_be_given():
    with pytest.raises(NotImplementedError, match=r"^With `group`, sharded classes or .* there is no gradient in"):
        _sharded.refuse_gradients(None, torch.ones(3, requires_grad=True))
