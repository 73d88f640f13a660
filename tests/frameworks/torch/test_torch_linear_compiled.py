"""A linear layer and its loss in compiled code, and where FakeTensorMode and make_fx look on: two ops, no logits."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

from zlpr_torch import _linear_autograd, linear_zlpr_loss, multi_hot, sparse_linear_zlpr_loss, zlpr_loss

FEATURES, CLASSES, ROWS = 6, 700, 9
SMALL = 4 * 4 * ROWS * 256  # bytes, of chunks of 256 classes
HARD = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.01
IDS = torch.tensor([[3, -1, 3], [699, 0, 5]] + [[-1, -1, -1]] * (ROWS - 2))
MASK = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(2)) < 0.9
MASK[4] = False
WEIGHT = torch.rand(CLASSES, generator=torch.Generator().manual_seed(3))
IGNORED = torch.where(MASK, HARD.float(), -1.0)
IS_OP = hasattr(torch.compiler, "is_exporting")  # before torch 2.7 all compiled code counts as exported: plain formulas
OPTIONS = {
    "none": {},
    "sum": {"reduction": "sum"},
    "one value an example": {"reduction": "none"},
    "mask": {"mask": MASK},
    "numbers": {"pos_weight": 2.0, "threshold": 0.3},
    "classes": {"weight": WEIGHT, "label_smoothing": 0.1},
}


def arrays(rows=ROWS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, FEATURES), (CLASSES, FEATURES), (CLASSES,))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def same(found, true, given, **near):
    torch.testing.assert_close(found, true, **near)
    upstream = torch.linspace(1, 2, found.numel(), dtype=found.dtype).reshape(found.shape)
    gradients = (torch.autograd.grad(x, given, upstream, retain_graph=True) for x in (found, true))
    torch.testing.assert_close(*gradients, **near)


def graph_of(step, *given):
    """What Dynamo hands over, and the result."""
    graphs = []
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    return compiled(*given), [str(node.target) for graph in graphs for node in graph.graph.nodes]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option(options):
    given = arrays()

    def step(input, weight, bias):
        return linear_zlpr_loss(input, weight, HARD, bias, memory_budget=SMALL, **options)

    torch._dynamo.reset()
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(*given)
    same(found, zlpr_loss(linear(*given), HARD, **options), given)


def test_ignored_cells_and_an_input_of_three_axes():
    input, weight, bias = arrays()

    def step(input, weight, bias):
        target = IGNORED.reshape(3, 3, CLASSES)
        return linear_zlpr_loss(
            input.reshape(3, 3, FEATURES), weight, target, bias, ignore_index=-1, reduction="none", memory_budget=SMALL
        )

    torch._dynamo.reset()
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(input, weight, bias)
    true = zlpr_loss(linear(input, weight, bias), IGNORED, ignore_index=-1, reduction="none").reshape(3, 3)
    same(found, true, (input, weight, bias))


def test_class_ids():
    input, weight, _ = arrays()
    torch._dynamo.reset()
    step = torch.compile(
        lambda x, w: sparse_linear_zlpr_loss(x, w, IDS, memory_budget=SMALL), fullgraph=True, backend="inductor"
    )
    same(step(input, weight), zlpr_loss(linear(input, weight), multi_hot(IDS, CLASSES)), (input, weight))


def test_the_graph_has_the_op_and_no_logits():
    given = arrays()
    _, targets = graph_of(lambda x, w, b: linear_zlpr_loss(x, w, HARD, b, memory_budget=SMALL), *given)
    assert any("linear_forward" in target for target in targets) is IS_OP
    assert any("built-in function linear>" in target for target in targets) is not IS_OP


def test_the_op_keeps_to_the_budget(monkeypatch):
    input, weight, bias = arrays()
    sizes, sums_of = [], _linear_autograd.sums_of
    monkeypatch.setattr(
        _linear_autograd, "sums_of", lambda layer, size, *kept: sizes.append(size) or sums_of(layer, size, *kept)
    )
    graph_of(lambda x, w, b: linear_zlpr_loss(x, w, HARD, b, memory_budget=SMALL), input, weight, bias)
    assert sizes == ([256] if IS_OP else [])


def test_gradients_that_nobody_wants():
    input, weight, bias = arrays()
    weight = weight.detach()
    torch._dynamo.reset()
    step = torch.compile(
        lambda x, w, b: linear_zlpr_loss(x, w, HARD, b, memory_budget=SMALL), fullgraph=True, backend="aot_eager"
    )
    same(step(input, weight, bias), zlpr_loss(linear(input, weight, bias), HARD), (input, bias))
    with torch.no_grad():
        torch.testing.assert_close(step(input, weight, bias), zlpr_loss(linear(input, weight, bias), HARD))


def test_half_precision_comes_back_in_its_dtype():
    given = arrays(dtype=torch.bfloat16)
    torch._dynamo.reset()
    step = torch.compile(
        lambda x, w, b: linear_zlpr_loss(x, w, HARD, b, memory_budget=SMALL), fullgraph=True, backend="aot_eager"
    )
    found, true = step(*given), linear_zlpr_loss(given[0], given[1], HARD, given[2], memory_budget=SMALL)
    assert found.dtype == torch.float32
    same(found, true, given)


def test_other_batch_sizes_are_not_compiled_again():
    _, weight, bias = arrays()
    torch._dynamo.reset()
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph

    step = torch.compile(
        lambda x, w, b, t: linear_zlpr_loss(x, w, t, b, memory_budget=SMALL),
        fullgraph=True,
        backend=backend,
        dynamic=True,
    )
    for rows in (9, 12, 20, 33):
        input, target = torch.randn(rows, FEATURES), torch.rand(rows, CLASSES) < 0.01
        torch.testing.assert_close(step(input, weight, bias, target), zlpr_loss(linear(input, weight, bias), target))
    assert len(compiled) == (1 if IS_OP else 2)


def test_what_fake_tensors_and_make_fx_see():
    input, weight, bias = (x.detach() for x in arrays())

    def step(input, weight, bias):
        return linear_zlpr_loss(input, weight, HARD, bias, memory_budget=SMALL)

    graph = make_fx(step)(input, weight, bias)
    assert any("linear_forward" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(input, weight, bias), step(input, weight, bias))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x).requires_grad_() for x in (input, weight, bias)]
        loss = linear_zlpr_loss(fakes[0], fakes[1], mode.from_tensor(HARD), fakes[2], memory_budget=SMALL)
        loss.backward()
    assert [fake.grad.shape for fake in fakes] == [input.shape, weight.shape, bias.shape]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own, torch 2.14
def test_the_ops_keep_pytorchs_rules():
    input, weight, bias = arrays(dtype=torch.float64)
    for target, ids, mask, reduction in ((HARD, (None,) * 3, MASK, "mean"), (HARD, (None,) * 3, None, "none")):
        options = mask, WEIGHT[None], None, None, 0.1, None, reduction, SMALL, None
        torch.library.opcheck(torch.ops.zlpr.linear_forward, (input, weight, bias, target, *ids, *options))


def test_a_gradient_that_the_op_does_not_know_is_refused():
    input, weight, bias = arrays()
    option = WEIGHT[None].clone().requires_grad_()
    arguments = input, weight, bias, HARD, None, None, None, None, option, None, None, 0.0, None, "mean", SMALL, None
    with pytest.raises(NotImplementedError, match="gradients in input, weight and bias only"):
        torch.ops.zlpr.linear_forward(*arguments)


def test_second_order_of_the_op():
    given = arrays(rows=ROWS, dtype=torch.float64)
    others = (HARD, None, None, None, None, None, None, None, 0.0, None, "sum", SMALL, None)

    def second(loss):
        first = torch.autograd.grad(loss, given, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), given)

    found = torch.ops.zlpr.linear_forward(*given, *others)[0]
    torch.testing.assert_close(second(found), second(zlpr_loss(linear(*given), HARD, reduction="sum")))
