"""``torch.compile`` and ``torch.func`` on every loss but the plain one, of which tests/frameworks/torch/test_torch.py speaks."""

import pytest
import torch
import torch._dynamo.testing
from torch.func import functional_call, grad, jacfwd, jacrev, vmap
from torch_losses import IDS, LOGITS, OTHERS, assert_same, each, rows, value_and_gradients

from zlpr_torch import SparseZLPRLoss

# Inductor calls a C++ compiler, which is slow: it compiles each formula once, and the rest stop at the graph
INDUCTOR = ("ids with options", "KL", "R-Drop with options")
GRAPHS = [(name, "inductor" if name in INDUCTOR else "aot_eager") for name in OTHERS]


@pytest.mark.parametrize(("name", "compiler"), GRAPHS)
def test_compiles_whole_with_the_batch_dynamic(name, compiler):
    """One graph for every batch size, that equals the eager mode in value and gradients."""
    torch._dynamo.reset()
    make, arguments = OTHERS[name]
    module, counter = make(), torch._dynamo.testing.CompileCounterWithBackend(compiler)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for number in (6, 4, 3, 2):
        batch = rows(arguments, number)
        assert_same(value_and_gradients(compiled, batch), value_and_gradients(module, batch), rtol=1e-5)
        frames.append(counter.frame_count)
    assert frames == [frames[0]] * 4


def split(module, arguments):
    """What can be differentiated, by name; and a function of it and of the rest."""
    floats = {name: x for name, x in arguments.items() if x.is_floating_point()}
    others = {name: x for name, x in arguments.items() if name not in floats}

    def loss(floats, others):
        return functional_call(module, dict(module.named_parameters()), (), {**floats, **others})

    return loss, floats, others


@each(OTHERS)
def test_by_rows(make, arguments):
    """Values and gradients of examples one by one are those of the batch."""
    module = make(reduction="none")
    loss, floats, others = split(module, arguments)
    assert_same(vmap(loss)(floats, others), module(**arguments))
    total = grad(lambda floats: loss(floats, others).sum())(floats)
    assert_same(vmap(grad(loss))(floats, others), total)
    expected = value_and_gradients(module, arguments)[1:]
    assert_same(list(total.values()), list(expected[: len(total)]))


@each(OTHERS)
def test_second_derivatives(make, arguments):
    """Forward over reverse, reverse over reverse and forward over forward, of one example in float64."""
    example = {name: (x[0].double() if x.is_floating_point() else x[0]) for name, x in arguments.items()}
    loss, floats, others = split(make(reduction="none").double(), example)
    forward, reverse, both = (
        first(second(loss))(floats, others) for first, second in ((jacfwd, jacfwd), (jacrev, jacrev), (jacfwd, jacrev))
    )
    assert_same(forward, reverse, rtol=1e-12, atol=1e-12)
    assert_same(both, reverse, rtol=1e-12, atol=1e-12)
    assert any(part.any() for row in reverse.values() for part in row.values())


def exported(module, arguments):
    return torch.export.export(module, (), arguments).module()


TRACED = {
    "compile": lambda module, _: torch.compile(module, fullgraph=True, backend="aot_eager"),
    "export": exported,
    "vmap": lambda module, _: lambda **inputs: vmap(module)(*inputs.values()),
}


@pytest.mark.parametrize("trace", TRACED.values(), ids=TRACED)
@pytest.mark.parametrize("illegal", [5, -2, 2**40])
def test_an_illegal_id_where_values_cannot_be_read(trace, illegal):
    """NaN for its example alone, where eager PyTorch names it."""
    torch._dynamo.reset()
    module = SparseZLPRLoss(reduction="none")
    legal = {"input": LOGITS, "indices": IDS}
    wrong = {"input": LOGITS, "indices": IDS.clone()}
    wrong["indices"][2, 1] = illegal
    got, expected = trace(module, legal)(**wrong), module(**legal)
    assert got.isnan().tolist() == [False, False, True, False, False, False]
    assert_same(got[got == got], expected[got == got])
    with pytest.raises(IndexError, match=rf"`indices` must be in \[0, 5\) .* Received: {illegal} at \[2, 1\]"):
        module(**wrong)
