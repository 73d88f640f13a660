"""Every loss module, with arguments to call it by, and its value and gradients."""

from functools import partial

import pytest
import torch
from torch import nn

from zlpr_torch import LinearZLPRLoss, RDropZLPRLoss, SparseZLPRLoss, ZLPRKLDivLoss, ZLPRLoss

torch.manual_seed(0)
LOGITS, OTHER = 3 * torch.randn(2, 6, 5)
SOFT = torch.rand(6, 5)
HARD = SOFT < 0.4
MASK = torch.rand(6, 5) < 0.9
IDS = torch.tensor([[0, 3], [-1, -1], [4, 4], [2, -1], [-1, 1], [1, 2]])  # no id, the same id twice, padding in front
WEIGHTS = {"weight": torch.rand(5), "pos_weight": torch.rand(5), "threshold": nn.Parameter(torch.randn(5)), "label_smoothing": 0.1}  # fmt: skip
IGNORED = {"target": HARD.long() - (SOFT > 0.8).long(), "mask": MASK}
DENSE = {
    "bool": (ZLPRLoss, {"input": LOGITS, "target": HARD}),
    "int64": (ZLPRLoss, {"input": LOGITS, "target": HARD.long()}),
    "soft": (ZLPRLoss, {"input": LOGITS, "target": SOFT}),
}
OTHERS = {
    "options": (partial(ZLPRLoss, **WEIGHTS, ignore_index=-1), {"input": LOGITS, **IGNORED}),
    "ids": (SparseZLPRLoss, {"input": LOGITS, "indices": IDS}),
    "ids with options": (partial(SparseZLPRLoss, **WEIGHTS), {"input": LOGITS, "indices": IDS, "mask": MASK}),
    "KL": (partial(ZLPRKLDivLoss, scale=2.0), {"p_logits": LOGITS, "q_logits": OTHER}),
    "symmetric KL": (partial(ZLPRKLDivLoss, symmetric=True), {"p_logits": LOGITS, "q_logits": OTHER, "mask": MASK}),
    "R-Drop": (RDropZLPRLoss, {"input1": LOGITS, "input2": OTHER, "target": SOFT}),
    "R-Drop with options": (partial(RDropZLPRLoss, **WEIGHTS, ignore_index=-1), {"input1": LOGITS, "input2": OTHER, **IGNORED}),
}  # fmt: skip
LOSSES = DENSE | OTHERS
MANY = 300
CHUNKS = {"memory_budget": 4 * 4 * 6 * 128}  # 128 classes at a time, which do not divide
LINEAR = {
    "linear": (partial(LinearZLPRLoss, 5, MANY, **CHUNKS), {"input": LOGITS, "target": torch.rand(6, MANY) < 0.05}),
    "linear ids": (partial(LinearZLPRLoss, 5, MANY, sparse=True, **CHUNKS), {"input": LOGITS, "target": IDS}),
}


class Training(nn.Module):
    """A model and its loss in one: what a step of training computes."""

    def __init__(self, criterion):
        super().__init__()
        self.layer, self.criterion = nn.Linear(4, 5), criterion

    def forward(self, features, target):
        return self.criterion(self.layer(features), target)


def each(losses):
    """A parametrisation by ``(make, arguments)``."""
    return pytest.mark.parametrize(("make", "arguments"), losses.values(), ids=losses)


each_loss = each(LOSSES)


def rows(arguments, number):
    """The first examples alone."""
    return {name: tensor[:number].clone() for name, tensor in arguments.items()}


def value_and_gradients(module, arguments):
    """The loss and the gradients of its sum in every floating argument and parameter."""
    inputs = {name: x.detach().clone().requires_grad_(x.is_floating_point()) for name, x in arguments.items()}
    loss = module(**inputs)
    leaves = [*(x for x in inputs.values() if x.requires_grad), *module.parameters()]
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


def assert_same(got, expected, rtol=1e-6, atol=1e-7):
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
