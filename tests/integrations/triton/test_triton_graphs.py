"""The kernels as ops of a graph for a GPU that is not there: fake tensors, AOTAutograd, and the ops themselves.

A fake tensor has a device, a shape and no values, which is all that a graph is made from.
"""

import harness.triton  # noqa: F401 - first, because it sets Triton to interpret
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from zlpr_core._options import Options
from zlpr_torch import ZLPRLoss, _ops, zlpr_loss

torch.manual_seed(0)
FORMS = {
    "plain": {},
    "mask": {"mask": ((6, 5), torch.bool)},
    "options": {"weight": ((5,), torch.float32), "pos_weight": 2.0, "threshold": ((6, 1), torch.float32)},
}


def fake(shape, dtype):
    return torch.empty(shape, dtype=dtype, device="cuda")


def problem(form, dtype=torch.float32, kind=torch.bool):
    options = {name: x if isinstance(x, float) else fake(*x) for name, x in FORMS[form].items()}
    return fake((6, 5), dtype), fake((6, 5), kind), options


class Context:
    """What PyTorch hands to the formula of an op. By itself it makes no backward for a GPU where there is none (2.13)."""

    def __init__(self, inputs, output):
        self.needs_input_grad = (True,) + (False,) * 8
        _ops._setup_context(self, inputs, output)

    def mark_non_differentiable(self, tensor):
        pass

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def both(x, target, options, reduction):
    """Loss and gradient by the ops, as ``zlpr_loss`` and autograd call them."""
    options = Options(**{{"mask": "where"}.get(name, name): option for name, option in options.items()})
    call = (x, target, *_ops.tensors_of(options, x.device), [1], reduction, True)
    output = torch.ops.zlpr.forward(*call)
    with torch.no_grad():
        return output, _ops._backward(Context(call, output), torch.ones_like(output[0]), None)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_fake_tensors_of_a_gpu(dtype, reduction, form):
    with FakeTensorMode():
        x, target, options = problem(form, dtype)
        loss = zlpr_loss(x, target, **options, reduction=reduction)
        output, gradient = both(x, target, options, reduction)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for got in (loss, output[0]):
        assert (got.dtype, got.device.type, got.shape) == (wide, "cuda", (6,) if reduction == "none" else ())
    assert (output[1].dtype, output[1].shape) == (wide, (6, 4))
    assert (gradient.dtype, gradient.device.type, gradient.stride()) == (dtype, "cuda", (5, 1))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_graph_is_two_ops_that_write_over_nothing(mode, kind):
    """And bool targets reach them as they are: Inductor has no view of a bool as uint8 (torch 2.11)."""

    def step(x, target):
        return both(x, target, {}, "mean")[1]

    with FakeTensorMode(shape_env=ShapeEnv() if mode == "symbolic" else None):
        x, target, _ = problem("plain", torch.bfloat16, kind)
        graph = make_fx(step, tracing_mode="real" if mode == "fake" else mode)(x, target)
    nodes = [node for node in graph.graph.nodes if "zlpr" in str(node.target)]
    assert [node.target.name() for node in nodes] == ["zlpr::forward", "zlpr::backward"]
    target = [node for node in graph.graph.nodes if node.op == "placeholder"][1]
    for node in nodes:
        assert not node.target._schema.is_mutable
        assert target in node.args


def test_one_graph_for_every_batch_size():
    """Compiled with fullgraph, for fake tensors of a GPU, whose code nobody makes here."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    loss = ZLPRLoss()
    train = torch.compile(lambda x, target: loss(x, target), fullgraph=True, dynamic=True, backend=backend)
    with FakeTensorMode():
        for rows in (6, 7, 64, 1000):
            x, target = fake((rows, 5), torch.float32), fake((rows, 5), torch.bool)
            assert train(x, target).device.type == "cuda"
    assert len(graphs) == 1
    assert [str(node.target) for node in graphs[0].graph.nodes if "zlpr" in str(node.target)] == ["zlpr.forward"]


@pytest.fixture(scope="module")
def stand_in():
    """The ops of a GPU under another name, for tensors of a CPU: what they say they return is compared to what they do."""
    library = torch.library.Library("zlpr_triton", "DEF")
    call = _ops._CALL
    library.define(f"forward({call}, bool with_gradient) -> (Tensor, Tensor)", tags=_ops._TAGS)
    library.define(f"backward(Tensor upstream, Tensor residuals, {call}) -> Tensor", tags=_ops._TAGS)
    library.impl("forward", quietly(_ops._forward_by(_ops._Triton)), "CPU")
    library.impl("backward", quietly(_ops._backward_by(_ops._Triton)), "CPU")
    torch.library.register_fake("zlpr_triton::forward", lambda *call: _ops._fake_forward(*call, "cuda"), lib=library)
    torch.library.register_fake("zlpr_triton::backward", _ops._fake_backward, lib=library)
    yield torch.ops.zlpr_triton
    library._destroy()


def quietly(function):
    def called(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return called


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dim", [[1], [0], [0, 1]])
def test_the_ops_return_what_they_say(stand_in, dim, reduction):
    x, target = torch.randn(6, 5).bfloat16(), torch.rand(6, 5) < 0.3
    call = (x, target, torch.rand(6, 5) < 0.9, torch.rand(5), None, torch.tensor(0.25), dim, reduction)
    for with_gradient in (True, False):
        torch.library.opcheck(
            stand_in.forward.default, (*call, with_gradient), test_utils=("test_schema", "test_faketensor")
        )
    loss, residuals = stand_in.forward(*call, True)
    upstream = torch.rand_like(loss)
    torch.library.opcheck(
        stand_in.backward.default, (upstream, residuals, *call), test_utils=("test_schema", "test_faketensor")
    )
    got = stand_in.backward(upstream, residuals, *call)
    y = x.clone().requires_grad_()
    options = {"mask": call[2], "weight": call[3], "threshold": 0.25}
    zlpr_loss(y, target, dim=dim, **options, reduction=reduction, impl="plain").backward(upstream)
    torch.testing.assert_close(got, y.grad, rtol=8e-3, atol=1e-9)
