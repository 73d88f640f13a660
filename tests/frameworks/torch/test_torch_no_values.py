"""Where tensors have shapes and dtypes but no values: meta tensors, FakeTensorMode, compiled constructors, vmap."""

from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo
from torch._subclasses.fake_tensor import FakeTensorMode

import zlpr_torch
from zlpr_torch import RDropZLPRLoss, SparseZLPRLoss, ZLPRKLDivLoss, ZLPRLoss, zlpr_loss

torch.manual_seed(0)
LOGITS = torch.randn(6, 5)
SOFT = torch.rand(6, 5)
HARD = SOFT < 0.4
IDS = torch.tensor([[0, -1], [2, 3], [4, 4], [-1, -1], [1, 0], [3, -1]])
VECTOR = torch.rand(5)
WIDE = torch.rand(300, 5)
OPTIONS = {"mask": HARD, "weight": VECTOR, "pos_weight": 2.0, "threshold": VECTOR}
SMOOTHED = {**OPTIONS, "label_smoothing": 0.1, "ignore_index": -1}

CALLS = {
    "zlpr_loss": (zlpr_torch.zlpr_loss, (LOGITS, SOFT), {}),
    "zlpr_loss, bool": (zlpr_torch.zlpr_loss, (LOGITS.bfloat16(), HARD), {"reduction": "none"}),
    "zlpr_loss, options": (zlpr_torch.zlpr_loss, (LOGITS, SOFT.double()), SMOOTHED),
    "zlpr_loss, dim": (zlpr_torch.zlpr_loss, (LOGITS, SOFT), {"dim": (0, 1)}),
    "sparse_zlpr_loss": (zlpr_torch.sparse_zlpr_loss, (LOGITS, IDS), {}),
    "sparse_zlpr_loss, options": (zlpr_torch.sparse_zlpr_loss, (LOGITS.double(), IDS), {**OPTIONS, "reduction": "none"}),
    "linear_zlpr_loss": (zlpr_torch.linear_zlpr_loss, (LOGITS, LOGITS[:5], SOFT), {}),
    "linear_zlpr_loss, chunks": (zlpr_torch.linear_zlpr_loss, (LOGITS, WIDE, WIDE.t()[:1].expand(6, 300)), {"memory_budget": 1, "mask": HARD[:, :1]}),
    "sparse_linear_zlpr_loss": (zlpr_torch.sparse_linear_zlpr_loss, (LOGITS, WIDE, IDS), {"memory_budget": 1}),
    "LinearZLPRLoss": (lambda x, target: zlpr_torch.LinearZLPRLoss(5, 5, device=x.device)(x, target), (LOGITS, SOFT), {}),
    "rdrop_zlpr_loss": (zlpr_torch.rdrop_zlpr_loss, (LOGITS, LOGITS, SOFT), SMOOTHED),
    "zlpr_terms": (zlpr_torch.zlpr_terms, (LOGITS, HARD.int()), SMOOTHED),
    "kl_divergence": (zlpr_torch.kl_divergence, (LOGITS, LOGITS), {"mask": HARD}),
    "symmetric_kl_divergence": (zlpr_torch.symmetric_kl_divergence, (LOGITS, LOGITS.double()), {"reduction": "none"}),
    "zlpr_divergence": (zlpr_torch.zlpr_divergence, (LOGITS, LOGITS), {}),
    "predict": (zlpr_torch.predict, (LOGITS,), {"threshold": VECTOR, "at_least_one": True}),
    "probabilities": (zlpr_torch.probabilities, (LOGITS.half(),), {}),
    "smooth_labels": (partial(zlpr_torch.smooth_labels, epsilon=0.1), (HARD,), {}),
    "zlpr_entropy": (zlpr_torch.zlpr_entropy, (SOFT,), {"mask": HARD}),
    "multi_hot": (partial(zlpr_torch.multi_hot, num_classes=5), (IDS,), {}),
    "span_to_index": (partial(zlpr_torch.span_to_index, length=8), (IDS, IDS), {}),
    "index_to_span": (partial(zlpr_torch.index_to_span, length=8), (IDS,), {}),
    "ZLPRLoss": (ZLPRLoss(pos_weight=2.0), (LOGITS, SOFT), {"mask": HARD}),
    "SparseZLPRLoss": (SparseZLPRLoss(reduction="sum"), (LOGITS, IDS), {}),
    "RDropZLPRLoss": (RDropZLPRLoss(), (LOGITS, LOGITS, SOFT), {}),
    "ZLPRKLDivLoss": (ZLPRKLDivLoss(symmetric=True), (LOGITS, LOGITS), {}),
}  # fmt: skip
"""Every public name but ``check_targets``, which is there to look at values, and ``LinearPlan``, which has none."""


def moved(values, move):
    if isinstance(values, dict):
        return {name: move(x) if isinstance(x, torch.Tensor) else x for name, x in values.items()}
    return [move(x) for x in values]


def kinds(results):
    return [(x.shape, x.dtype) for x in (results if isinstance(results, tuple) else (results,))]


def test_every_public_name_is_called():
    assert {name.split(",")[0] for name in CALLS} == set(zlpr_torch.__all__) - {"LinearPlan", "check_targets"}


@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize(("call", "arrays", "options"), CALLS.values(), ids=CALLS)
def test_meta_tensors(call, arrays, options, device):
    """As they are, and where they are made by default."""

    def meta(x):
        return x.to("meta")

    expected = kinds(call(*arrays, **options))
    with torch.device(device or "cpu"):
        results = call(*moved(arrays, meta), **moved(options, meta))
    assert kinds(results) == expected
    assert all(x.is_meta for x in (results if isinstance(results, tuple) else (results,)))


@pytest.mark.parametrize(("call", "arrays", "options"), CALLS.values(), ids=CALLS)
def test_fake_tensors(call, arrays, options):
    expected = kinds(call(*arrays, **options))
    with FakeTensorMode() as mode:
        assert kinds(call(*moved(arrays, mode.from_tensor), **moved(options, mode.from_tensor))) == expected


def test_a_meta_loss_goes_backward():
    logits = LOGITS.to("meta").requires_grad_()
    zlpr_loss(logits, SOFT.to("meta")).backward()
    assert logits.grad.shape == logits.shape


FORMS = {
    "number": lambda: 2.0,
    "list": lambda: [1.0] * 5,
    "NumPy array": lambda: np.ones(5),
    "NumPy number": lambda: np.float32(2),
    "tensor": lambda: torch.ones(5),
}


@pytest.mark.parametrize("make", [ZLPRLoss, SparseZLPRLoss, RDropZLPRLoss])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("where", [lambda: torch.device("meta"), FakeTensorMode], ids=["meta", "fake"])
def test_construction(make, form, where):
    """Under ``torch.device("meta")``, as large models are built, and FakeTensorMode."""
    with where():
        module = make(weight=form(), pos_weight=form(), threshold=form(), label_smoothing=0.1)
        module.pos_weight = form()
    assert all(x.is_meta or type(x) is not torch.Tensor for x in module.buffers())


def test_an_illegal_number_is_refused_where_tensors_have_no_values():
    for place in (torch.device("meta"), FakeTensorMode()):
        with place, pytest.raises(ValueError, match=r"`pos_weight` must be non-negative and finite. Received: -1.0"):
            ZLPRLoss(pos_weight=-1)


@pytest.mark.parametrize("name", ["weight", "pos_weight", "threshold"])
def test_construction_within_a_compiled_function_and_within_vmap(name):
    torch._dynamo.reset()

    def build(option):
        module = ZLPRLoss(**{name: option}, reduction="none")
        setattr(module, name, option * 2)
        return module(LOGITS, HARD)

    expected = zlpr_loss(LOGITS, HARD, **{name: 2 * VECTOR}, reduction="none")
    compiled = torch.compile(build, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(VECTOR), expected)
    torch.testing.assert_close(torch.vmap(build)(VECTOR.expand(2, 5)), expected.expand(2, 6))
