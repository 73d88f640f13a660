"""PyTorch's own judges of derivatives and of ops, in slow mode: every cell of every Jacobian, against differences.

``gradcheck``: reverse and forward mode, batches of gradients in both, gradients that are not there. ``gradgradcheck``: the
same of the derivative, and forward over reverse. ``torch.library.opcheck``: schema, aliasing, fake results, AOTAutograd.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import zlpr_torch

torch.manual_seed(0)
LOGITS, OTHER = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
SOFT = 0.1 + 0.8 * torch.rand(2, 3, dtype=torch.float64)  # at 0 and 1 a difference would leave what is legal
HARD = SOFT < 0.5
MASK = torch.tensor([[True, True, False], [True, True, True]])
IDS = torch.tensor([[2, -1], [0, 1]])
VECTOR, COLUMN, NUMBER = (0.5 + torch.rand(size, dtype=torch.float64) for size in ((3,), (2, 1), ()))
SQUARE = torch.randn(3, 3, dtype=torch.float64)
WEIGHTS = {"weight": VECTOR, "pos_weight": COLUMN, "threshold": NUMBER}

# the function, what it is differentiated in, and what stays
CASES = {
    "hard": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": HARD}),
    "integer, none": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": HARD.long(), "reduction": "none"}),
    "soft": (zlpr_torch.zlpr_loss, {"input": LOGITS, "target": SOFT}, {"reduction": "sum"}),
    "soft, constant": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": SOFT, **WEIGHTS, "mask": MASK}),
    "hard, weights": (zlpr_torch.zlpr_loss, {"input": LOGITS, **WEIGHTS}, {"target": HARD}),
    "soft, weights": (zlpr_torch.zlpr_loss, {"input": LOGITS, "target": SOFT, **WEIGHTS}, {"reduction": "none"}),
    "mask": (zlpr_torch.zlpr_loss, {"input": LOGITS, "weight": VECTOR}, {"target": SOFT, "mask": MASK}),
    "smoothing": (zlpr_torch.zlpr_loss, {"input": LOGITS, "target": SOFT}, {"label_smoothing": 0.1}),
    "ignored": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": torch.where(MASK, HARD.long(), -2), "ignore_index": -2}),
    "two axes": (zlpr_torch.zlpr_loss, {"input": LOGITS, "threshold": VECTOR}, {"target": HARD, "dim": (0, 1)}),
    "first axis": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": SOFT, "dim": 0}),
    "plain": (zlpr_torch.zlpr_loss, {"input": LOGITS}, {"target": HARD, "impl": "plain"}),
    "ids": (zlpr_torch.sparse_zlpr_loss, {"input": LOGITS}, {"indices": IDS}),
    "ids, weights": (zlpr_torch.sparse_zlpr_loss, {"input": LOGITS, **WEIGHTS}, {"indices": IDS, "mask": MASK, "label_smoothing": 0.1}),
    "linear": (zlpr_torch.linear_zlpr_loss, {"input": LOGITS, "linear_weight": SQUARE, "bias": VECTOR, "target": SOFT}, {"pos_weight": COLUMN}),
    "linear, chunks": (zlpr_torch.linear_zlpr_loss, {"input": LOGITS, "linear_weight": SQUARE, "bias": VECTOR}, {"target": HARD, "mask": MASK, "memory_budget": 1}),
    "linear, chunks, none": (zlpr_torch.linear_zlpr_loss, {"input": LOGITS, "linear_weight": SQUARE}, {"target": SOFT, "memory_budget": 1, "reduction": "none"}),
    "linear, ids": (zlpr_torch.sparse_linear_zlpr_loss, {"input": LOGITS, "linear_weight": SQUARE}, {"indices": IDS, "memory_budget": 1}),
    "halves": (zlpr_torch.zlpr_terms, {"input": LOGITS, "target": SOFT, **WEIGHTS}, {"mask": MASK}),
    "R-Drop": (zlpr_torch.rdrop_zlpr_loss, {"input1": LOGITS, "input2": OTHER, "target": SOFT}, {}),
    "R-Drop, weights": (zlpr_torch.rdrop_zlpr_loss, {"input1": LOGITS, "input2": OTHER, **WEIGHTS}, {"target": HARD, "mask": MASK}),
    "R-Drop, numbers": (zlpr_torch.rdrop_zlpr_loss, {"input1": LOGITS, "alpha": NUMBER, "scale": NUMBER}, {"input2": OTHER, "target": HARD}),
    "KL": (zlpr_torch.kl_divergence, {"p_logits": LOGITS, "q_logits": OTHER}, {"mask": MASK}),
    "KL, near": (zlpr_torch.kl_divergence, {"p_logits": LOGITS, "q_logits": LOGITS + 1e-3 * OTHER}, {"reduction": "none"}),
    "KL, scale": (zlpr_torch.kl_divergence, {"p_logits": LOGITS, "q_logits": OTHER, "scale": NUMBER}, {}),
    "symmetric KL": (zlpr_torch.symmetric_kl_divergence, {"p_logits": LOGITS, "q_logits": OTHER, "scale": NUMBER}, {"reduction": "sum"}),
    "own divergence": (zlpr_torch.zlpr_divergence, {"p_logits": LOGITS, "q_logits": OTHER}, {"mask": MASK}),
    "own divergence, near": (zlpr_torch.zlpr_divergence, {"p_logits": LOGITS, "q_logits": LOGITS + 1e-3 * OTHER}, {"reduction": "none"}),
    "entropy": (zlpr_torch.zlpr_entropy, {"target": SOFT}, {"mask": MASK}),
    "smoothed": (zlpr_torch.smooth_labels, {"target": SOFT}, {"epsilon": 0.1}),
    "probabilities": (zlpr_torch.probabilities, {"input": LOGITS}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("function", "moving", "fixed"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_gradcheck(function, moving, fixed):
    inputs = [x.clone().requires_grad_() for x in moving.values()]

    def call(*tensors):
        return function(**dict(zip(moving, tensors, strict=True)), **fixed)

    judges = {"fast_mode": False, "check_undefined_grad": True, "check_batched_grad": True}
    assert gradcheck(call, inputs, check_forward_ad=True, check_batched_forward_grad=True, **judges)
    assert gradgradcheck(call, inputs, check_fwd_over_rev=True, gen_non_contig_grad_outputs=True, **judges)


def test_every_differentiable_name_is_judged():
    others = {"predict", "check_targets", "multi_hot", "span_to_index", "index_to_span"}
    modules = {name for name in zlpr_torch.__all__ if name[0].isupper()}
    assert {function.__name__ for function, _, _ in CASES.values()} == set(zlpr_torch.__all__) - others - modules


OPTIONS = {
    "none": (None, None, None, None),
    "mask": (MASK, None, None, None),
    "weight": (None, VECTOR, None, None),
    "pos_weight": (None, None, COLUMN, None),
    "threshold": (None, None, None, NUMBER),
    "all": (MASK, COLUMN, NUMBER, VECTOR),
}
WAYS = ([1], "mean"), ([1], "none"), ([0, 1], "sum"), ([0], "none")


@pytest.mark.parametrize(
    ("target", "dtype", "ways"),
    [
        (HARD, torch.float64, WAYS[:2]),
        (HARD.long(), torch.float32, WAYS[2:3]),
        (SOFT, torch.float16, WAYS[3:]),
    ],
    ids=["bool", "int64", "soft"],
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # PyTorch's own
def test_opcheck(target, dtype, ways, options):
    """``zlpr::forward`` in training and not, and ``zlpr::backward``, in every reduction and along either axis."""
    for way in ways:
        x = LOGITS.to(dtype).requires_grad_()
        arguments = (target, *options, *way)
        opcheck(torch.ops.zlpr.forward.default, (x, *arguments, True))
        opcheck(torch.ops.zlpr.forward.default, (x.detach(), *arguments, False))
        loss, residuals = (y.detach() for y in torch.ops.zlpr.forward(x, *arguments, True))
        opcheck(torch.ops.zlpr.backward.default, (torch.rand_like(loss), residuals, x.detach(), *arguments))


@pytest.mark.parametrize("upstream", [torch.tensor(0.5), torch.rand(2)], ids=["number", "column"])
def test_opcheck_of_the_tie(upstream):
    """It is called within backward only, and has no derivative: that a second one is refused has tests of its own."""
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(torch.ops.zlpr.tied.default, (upstream, LOGITS), test_utils=rules)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("target", [HARD, SOFT], ids=["bool", "soft"])
def test_gradcheck_of_the_op(target, options):
    def loss(x):
        return torch.ops.zlpr.forward(x, target, *options, [1], "none", True)[0]

    x = LOGITS.clone().requires_grad_()
    assert gradcheck(loss, x, fast_mode=False, check_undefined_grad=True)
    assert gradgradcheck(loss, x, fast_mode=False)
