"""What a linear layer and its loss are given, and where they are called: bad arguments, blocks, graphs, no gradient."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.nn.functional import linear

import zlpr_torch
from zlpr_torch import LinearZLPRLoss, linear_zlpr_loss, multi_hot, sparse_linear_zlpr_loss, zlpr_loss
from zlpr_torch._chunks import one_sweep

ROWS, FEATURES, CLASSES = 150, 5, 700
SMALL = 4 * 4 * ROWS * 150
HARD = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.02
PEAK = """
import torch
from torch.profiler import ProfilerActivity, profile
import zlpr_torch

def most_held(both):
    # every allocation and release that PyTorch reports
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        both()
    held = most = 0
    for event in sorted((e for e in watch.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most

torch.set_num_threads(2)
x, w, b = (torch.randn(shape).requires_grad_() for shape in ((256, 256), (131_072, 256), (131_072,)))
ids = torch.randint(131_072, (256, 3))
x = (x / scale).detach().requires_grad_()
loss = lambda: torch.autograd.grad(zlpr_torch.sparse_linear_zlpr_loss(x, w, ids, b), (x, w, b))
print(most_held(loss) - 4 * (x.numel() + w.numel() + b.numel()))
"""


def arrays():
    generator = torch.Generator().manual_seed(2)
    shapes = (ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def test_a_chunk_may_be_several_blocks_of_the_kernel():
    """Of three million logits, which fit the budget at once."""
    x, w = torch.randn(600, 8).requires_grad_(), torch.randn(5000, 8).requires_grad_()
    target, seen = torch.rand(600, 5000) < 0.01, []
    linear_zlpr_loss(x, w, target, weight_grad_hook=lambda rows, gradient: seen.append(gradient)).backward()
    true = torch.autograd.grad(zlpr_loss(linear(x, w), target), (x, w))
    torch.testing.assert_close(torch.cat(seen), true[1])
    torch.testing.assert_close(x.grad, true[0])


@pytest.mark.parametrize(("scale", "most"), [(4, 20), (1, 40)], ids=["near", "far"])
def test_peak_memory(scale, most):
    """MiB beyond the gradients, where the logits take 128. Rows far out are computed by the core's formula too."""
    done = subprocess.run(
        [sys.executable, "-c", f"scale = {scale}\n{PEAK}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 2**20 < int(done.stdout.splitlines()[-1]) < most * 2**20


@pytest.mark.parametrize("form", ["ids", "bool", "integers"])
@pytest.mark.parametrize("scale", [1, 300], ids=["near", "far"])
def test_logits_wait_in_the_gradient_of_the_weight(monkeypatch, form, scale):
    """Of no more rows than features: the second sweep makes none. A second backward makes them anew.

    Beside class ids, and bool targets that are taken for these, they lie class by class and their exponentials wait:
    logits of rows far out are made anew.
    """
    generator = torch.Generator().manual_seed(4)
    x, w, b = (scale * torch.randn(5, 7, generator=generator), *(torch.randn(n, generator=generator) for n in ((600, 7), (600,))))  # fmt: skip
    layer = [array.requires_grad_() for array in (x, w, b)]
    ids = torch.randint(600, (5, 4), generator=generator)
    ids[:, 1], ids[0] = ids[:, 0], -1  # the same id twice, a row without one
    hot, made = multi_hot(ids, 600), []
    product = torch.addmm

    def multiplied(*given, out=None):
        made.append(out is not None and out.stride(0) == 1)
        return product(*given, out=out)

    monkeypatch.setattr(torch, "addmm", multiplied)
    function, target = (sparse_linear_zlpr_loss, ids) if form == "ids" else (linear_zlpr_loss, hot)
    target = hot.int() if form == "integers" else target
    loss = function(x, w, target, b, memory_budget=4 * 4 * 5 * 128)
    chunks = 5  # of 128 classes
    far = chunks if form != "integers" and scale == 300 else 0
    assert len(made) == chunks + far
    assert sum(made) == (0 if form == "integers" else chunks)
    first = torch.autograd.grad(loss, layer, retain_graph=True)
    assert len(made) == chunks + 2 * far
    second = torch.autograd.grad(loss, layer)
    assert len(made) == 2 * chunks + 3 * far
    true = torch.autograd.grad(zlpr_loss(linear(x, w, b), hot), layer)
    for got in (first, second):
        torch.testing.assert_close(got, true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positives", ["none", "few", "in one row", "many"])
def test_bool_targets_are_class_ids_if_they_are_few(positives):
    """In one row: as ids they would take more memory than all targets."""
    generator, hot = torch.Generator().manual_seed(7), torch.zeros(64, 640, dtype=torch.bool)
    if positives == "in one row":
        hot[5, :150] = True  # of all cells fewer than one in 200
    elif positives != "none":
        hot[:, :: 300 if positives == "few" else 9] = True
    layer = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((64, 80), (640, 80), (640,))]
    loss = linear_zlpr_loss(layer[0], layer[1], hot, layer[2], memory_budget=4 * 4 * 64 * 128)
    by_ids = loss.grad_fn.saved_tensors[3] is None  # type: ignore[union-attr]
    assert by_ids == (positives in ("none", "few"))
    true = zlpr_loss(linear(*layer), hot)
    torch.testing.assert_close(loss, true)
    torch.testing.assert_close(torch.autograd.grad(loss, layer), torch.autograd.grad(true, layer), rtol=1e-5, atol=1e-7)


def test_without_a_gradient_no_logits_wait(monkeypatch):
    """Under ``no_grad`` their memory was as large as the weight, whatever the budget."""
    made, memory_of = [], zlpr_torch._linear_autograd.memory_of
    monkeypatch.setattr(zlpr_torch._linear_autograd, "memory_of", lambda *call: made.append(memory_of(*call)))
    layer = [torch.ones(5, 7), torch.ones(600, 7, requires_grad=True)]
    with torch.no_grad():
        sparse_linear_zlpr_loss(*layer, torch.ones(5, 1, dtype=torch.int64), memory_budget=4 * 4 * 5 * 128)
    assert made == [None]


def test_without_a_gradient_none_is_made(monkeypatch):
    """The way by rows makes it while the loss is."""
    monkeypatch.setattr(zlpr_torch._linear_autograd, "one_sweep", lambda *_: pytest.fail("a gradient was made"))
    budget = 4 * 8 * CLASSES * 64
    layer = arrays()
    with torch.no_grad():
        quiet = linear_zlpr_loss(layer[0], layer[1], HARD, layer[2], memory_budget=budget)
    detached = [array.detach() for array in layer]
    assert torch.equal(linear_zlpr_loss(detached[0], detached[1], HARD, detached[2], memory_budget=budget), quiet)
    monkeypatch.setattr(zlpr_torch._linear_autograd, "one_sweep", one_sweep)
    torch.testing.assert_close(
        linear_zlpr_loss(layer[0], layer[1], HARD, layer[2], memory_budget=budget).detach(), quiet
    )


@pytest.mark.parametrize("budget", [None, SMALL], ids=["all logits", "chunks"])
def test_dtypes_that_differ_are_promoted(budget):
    x, w, b = (array.detach() for array in arrays())
    for given in ((x.bfloat16(), w, b), (x, w.half(), b), (x.double(), w, b), (x, w, b.double())):
        found = linear_zlpr_loss(given[0], given[1], HARD, given[2], memory_budget=budget)
        true = zlpr_loss(linear(*(part.double() for part in given)), HARD)
        torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        scipy.sparse.csr_array,
        lambda t: scipy.sparse.csr_array(t.astype(int)),
        lambda t: torch.tensor(t).to_sparse_coo(),
    ],
)
def test_a_matrix_is_no_list_of_ids(make):
    x, w, _ = arrays()
    with pytest.raises(TypeError, match=r"^`indices` must be dense. Received: a sparse"):
        sparse_linear_zlpr_loss(x, w, make(HARD.numpy()))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"linear_weight": torch.ones(FEATURES, CLASSES)}, ValueError, "`linear_weight` must have the shape (classes, 5), for `input` of shape (150, 5). Received: (5, 700)."),
        ({"bias": np.ones(CLASSES)}, TypeError, "`bias` must be a torch.Tensor. Received: ndarray. Wrap it in torch.as_tensor."),
        ({"bias": torch.ones(CLASSES).long()}, TypeError, "`bias` must have a real floating dtype. Received: torch.int64. Convert it first."),
        ({"linear_weight": torch.ones(CLASSES, FEATURES, device="meta")}, ValueError, "`linear_weight` must be on the device of `input`, cpu. Received: meta."),
        ({"memory_budget": 2.5e6}, ValueError, "`memory_budget` must be a positive whole number of bytes. Received: 2500000.0."),
        ({"bias": torch.ones(3)}, ValueError, "`bias` must have one number a class: (700,). Received: (3,)."),
        ({"target": HARD[:, 1:]}, ValueError, "`target` must have one row for each of `input` and a column a class: (150, 700). Received: (150, 699). For class ids, call `sparse_linear_zlpr_loss`."),
        ({"target": HARD.numpy()}, TypeError, "`target` must be a torch.Tensor. Received: ndarray. Wrap it in torch.as_tensor."),
        ({"input": torch.ones(ROWS, FEATURES).long()}, TypeError, "`input` must have a real floating dtype. Received: torch.int64. Convert it first."),
        ({"memory_budget": 0}, ValueError, "`memory_budget` must be a positive whole number of bytes. Received: 0."),
        ({"target": HARD.to("meta")}, ValueError, "`target` must be on the device of `input`, cpu. Received: meta."),
        ({"mask": torch.ones(CLASSES, dtype=torch.bool, device="meta")}, ValueError, "`mask` must be on the device of `input`, cpu. Received: meta."),
        ({"weight": torch.ones(ROWS, 1, device="meta")}, ValueError, "`weight` must be on the device of `input`, cpu. Received: meta."),
        ({"weight_grad_hook": 3}, TypeError, "`weight_grad_hook` must be a function of a slice of the classes and a gradient. Received: 3."),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "`mask` must broadcast to the shape of `input`. Received: (3,) for (150, 700)."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages(change, error, text):
    given = {
        "input": torch.ones(ROWS, FEATURES),
        "linear_weight": torch.ones(CLASSES, FEATURES),
        "target": HARD,
    } | change
    arrays = [given.pop(name) for name in ("input", "linear_weight", "target")]
    with pytest.raises(error) as raised:
        linear_zlpr_loss(*arrays, **given)
    assert str(raised.value) == text


def test_ids_on_another_device():
    with pytest.raises(ValueError, match=r"^`indices` must be on the device of `input`, cpu. Received: meta.$"):
        sparse_linear_zlpr_loss(torch.ones(2, 3), torch.ones(CLASSES, 3), torch.zeros(2, 1, dtype=int, device="meta"))


def test_an_id_out_of_range_is_named():
    with pytest.raises(
        IndexError, match=r"^`indices` must be in \[0, 700\) or `pad` \(-1\). Received: 700 at \[1, 0\].$"
    ):
        sparse_linear_zlpr_loss(torch.ones(2, 3), torch.ones(CLASSES, 3), torch.tensor([[1], [CLASSES]]))


def test_compiled():
    """In one graph, and by chunks."""
    input, weight, bias = arrays()
    ids = torch.tensor([[3, -1]] * ROWS)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(input, weight, bias):
        call = {"memory_budget": SMALL}
        return linear_zlpr_loss(input, weight, HARD, bias, **call) + sparse_linear_zlpr_loss(input, weight, ids, **call)

    true = zlpr_loss(linear(input, weight, bias), HARD) + zlpr_loss(linear(input, weight), multi_hot(ids, CLASSES))
    loss = step(input, weight, bias)
    torch.testing.assert_close(loss, true)
    given = (input, weight, bias)
    torch.testing.assert_close(torch.autograd.grad(loss, given), torch.autograd.grad(true, given))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own look at it
def test_compiled_with_a_hook():
    """Which breaks the graph there."""
    input, weight, _ = arrays()
    seen = []

    @torch.compile(backend="aot_eager")
    def step(input, weight):
        return 2 * linear_zlpr_loss(
            input + 1, weight, HARD, weight_grad_hook=lambda rows, gradient: seen.append(gradient)
        )

    step(input, weight).backward()
    true = torch.autograd.grad(2 * zlpr_loss(linear(input + 1, weight), HARD), (input, weight))
    torch.testing.assert_close(torch.cat(seen), true[1])
    torch.testing.assert_close(input.grad, true[0])


class Model(torch.nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.encoder, self.head = torch.nn.Linear(FEATURES, FEATURES), LinearZLPRLoss(FEATURES, CLASSES, sparse=sparse)

    def forward(self, x, target):
        return self.head(self.encoder(x), target)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "ids"])
def test_traced_and_exported(sparse):
    model, x = Model(sparse), arrays()[0].detach()
    target = torch.tensor([[3, -1]] * ROWS) if sparse else HARD
    true = model(x, target)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x, target), true)
    torch.testing.assert_close(torch.export.export(model, (x, target)).module()(x, target), true)
