"""The losses as modules: they equal the functions, travel, learn a threshold, and are checked when they are made."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch._dynamo

import zlpr_torch
from zlpr_torch import RDropZLPRLoss, SparseZLPRLoss, ZLPRKLDivLoss, ZLPRLoss, sparse_zlpr_loss, zlpr_loss

torch.manual_seed(0)
LOGITS = torch.randn(6, 5, dtype=torch.float64) * 3
HARD = torch.rand(6, 5) < 0.4
SOFT = torch.rand(6, 5, dtype=torch.float64)
IDS = torch.where(HARD, torch.arange(5), -1)


def test_module_equals_function():
    options = {
        "weight": torch.rand(5),
        "pos_weight": torch.rand(5),
        "threshold": torch.randn(5),
        "label_smoothing": 0.1,
        "ignore_index": -1,
    }
    for target in (HARD.long(), SOFT):
        module = ZLPRLoss(**options, reduction="sum")(LOGITS, target, mask=HARD)
        torch.testing.assert_close(
            module, zlpr_loss(LOGITS, target, **options, mask=HARD, reduction="sum"), rtol=0, atol=0
        )


def test_weights_are_buffers_that_travel():
    module = ZLPRLoss(weight=torch.rand(5), pos_weight=torch.tensor(2.0), threshold=torch.zeros(5))
    assert sorted(module.state_dict()) == ["pos_weight", "threshold", "weight"]
    other = ZLPRLoss(weight=torch.ones(5), pos_weight=torch.tensor(1.0), threshold=torch.ones(5))
    other.load_state_dict(module.state_dict())
    for clone in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(clone(LOGITS, HARD), module(LOGITS, HARD), rtol=0, atol=0)
    assert not list(module.parameters())
    assert module.to(torch.float64).weight.dtype == torch.float64
    torch.testing.assert_close(module.half()(LOGITS, HARD), module(LOGITS, HARD))


def test_a_tensor_assigned_later_is_a_buffer_too():
    module = ZLPRLoss()
    assert not module.state_dict()
    module.pos_weight = torch.full((5,), 2.0)
    assert list(module.state_dict()) == ["pos_weight"]
    assert module.double().pos_weight.dtype == torch.float64
    torch.testing.assert_close(module(LOGITS, HARD), zlpr_loss(LOGITS, HARD, pos_weight=2.0))
    module.pos_weight = None
    torch.testing.assert_close(module(LOGITS, HARD), zlpr_loss(LOGITS, HARD))
    module.threshold = torch.nn.Parameter(torch.zeros(5))
    assert [name for name, _ in module.named_parameters()] == ["threshold"]


FORMS_OF_OPTIONS = {
    "numbers": (np.float32(0.5), torch.tensor(0.5)),
    "lists": ([0.5, 1, 2, 0, 0.25], torch.tensor([0.5, 1, 2, 0, 0.25]).double()),
    "arrays": (np.linspace(0, 1, 5), torch.linspace(0, 1, 5, dtype=torch.float64)),
    "None": (None, None),
}


@pytest.mark.parametrize(("form", "tensor"), FORMS_OF_OPTIONS.values(), ids=FORMS_OF_OPTIONS)
@pytest.mark.parametrize("name", ["weight", "pos_weight", "threshold", "mask", "label_smoothing"])
def test_forms_of_options(name, form, tensor):
    """Whatever torch.as_tensor takes, and None for the default, in functions, modules and compiled code."""
    if name == "mask":
        form, tensor = (None, None) if form is None else ((np.asarray(form) > 0.4).tolist(), tensor > 0.4)
        form = form if isinstance(form, list) or form is None else [form]
    if name == "label_smoothing":
        form, tensor = None, 0.0
    torch._dynamo.reset()
    given, expected = {name: form}, zlpr_loss(LOGITS, HARD, **{name: tensor})
    torch.testing.assert_close(zlpr_loss(LOGITS, HARD, **given), expected)
    torch.testing.assert_close(sparse_zlpr_loss(LOGITS, IDS, **given), expected)
    if name != "mask":
        torch.testing.assert_close(ZLPRLoss(**given)(LOGITS, HARD), expected)
    compiled = torch.compile(lambda x: zlpr_loss(x, HARD, **given), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(LOGITS), expected)


def test_a_parameter_threshold_is_learned():
    module = ZLPRLoss(threshold=torch.nn.Parameter(torch.zeros(5)))
    assert [name for name, _ in module.named_parameters()] == ["threshold"]
    module(LOGITS, HARD).backward()
    x = LOGITS.clone().requires_grad_()
    zlpr_loss(x, HARD).backward()
    torch.testing.assert_close(module.threshold.grad.double(), -x.grad.sum(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weight", [0.1, [0.1, 0.2, 0.3, 0.4, 0.5]], ids=["number", "list"])
def test_numbers_as_weights_keep_their_digits(weight):
    module, function = ZLPRLoss(weight=weight), zlpr_loss(LOGITS, HARD, weight=torch.tensor(weight).double())
    exact = torch.tensor(weight, dtype=torch.float64)
    torch.testing.assert_close(module(LOGITS, HARD), zlpr_loss(LOGITS, HARD, weight=exact), rtol=1e-14, atol=0)
    assert function != module(LOGITS, HARD)  # float32 has not these digits


def test_a_number_as_weight_is_the_same_in_a_module():
    torch.testing.assert_close(ZLPRLoss(weight=0.1)(LOGITS, HARD), zlpr_loss(LOGITS, HARD, weight=0.1), rtol=0, atol=0)


def test_construction_checks():
    with pytest.raises(ValueError, match=r"`weight` must be non-negative and finite. Received: tensor\(\[ 1., -1.\]\)"):
        ZLPRLoss(weight=torch.tensor([1.0, -1.0]))
    for make in (ZLPRLoss, SparseZLPRLoss, RDropZLPRLoss):
        with pytest.raises(ValueError, match=r"`pos_weight` must be non-negative and finite. Received: inf"):
            make(pos_weight=math.inf)
    with pytest.raises(
        TypeError, match=r"`weight` must be a number, a tensor, or what torch.as_tensor takes. Received"
    ):
        ZLPRLoss(weight="heavy")
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\]. Received: -0.1"):
        ZLPRLoss(label_smoothing=-0.1)


def test_repr_shows_what_was_set():
    assert repr(ZLPRLoss()) == "ZLPRLoss(dim=-1, reduction='mean')"
    shown = repr(
        ZLPRLoss(
            dim=(-2, -1), weight=torch.ones(2), threshold=0.5, label_smoothing=0.1, ignore_index=0, reduction="sum"
        )
    )
    expected = (
        "dim=(-2, -1), weight=tensor([1., 1.]), threshold=0.5, label_smoothing=0.1, ignore_index=0, reduction='sum'"
    )
    assert shown == f"ZLPRLoss({expected})"


def test_other_modules_equal_their_functions():
    other = LOGITS.flip(0)
    options = {"weight": torch.rand(5), "threshold": torch.randn(5), "reduction": "sum"}
    torch.testing.assert_close(
        SparseZLPRLoss(**options)(LOGITS, IDS, mask=HARD), sparse_zlpr_loss(LOGITS, IDS, mask=HARD, **options)
    )
    options |= {"alpha": 2.0, "scale": 2.0, "ignore_index": -1}
    torch.testing.assert_close(
        RDropZLPRLoss(**options)(LOGITS, other, SOFT), zlpr_torch.rdrop_zlpr_loss(LOGITS, other, SOFT, **options)
    )
    for symmetric, function in ((False, zlpr_torch.kl_divergence), (True, zlpr_torch.symmetric_kl_divergence)):
        module = ZLPRKLDivLoss(scale=2.0, symmetric=symmetric, reduction="none")
        torch.testing.assert_close(module(LOGITS, other), function(LOGITS, other, scale=2.0, reduction="none"))
    assert repr(RDropZLPRLoss(alpha=1.0)) == "RDropZLPRLoss(alpha=1.0, dim=-1, reduction='mean')"
    assert repr(SparseZLPRLoss(pad=0)) == "SparseZLPRLoss(dim=-1, pad=0, reduction='mean')"
    assert repr(ZLPRKLDivLoss(symmetric=True)) == "ZLPRKLDivLoss(dim=-1, symmetric=True, reduction='mean')"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SparseZLPRLoss(weight=torch.tensor([-1.0])), "`weight` must be non-negative"),
        (lambda: RDropZLPRLoss(alpha=-1.0), "`alpha` must be a non-negative number"),
        (lambda: RDropZLPRLoss(alpha=np.float32(-1)), "`alpha` must be a non-negative number"),
        (lambda: ZLPRLoss(label_smoothing="0.1"), "`label_smoothing` must be a number"),
        (lambda: ZLPRKLDivLoss(scale=0.0), "`scale` must be a positive number"),
        (lambda: ZLPRKLDivLoss(reduction="avg"), "`reduction` must be"),
    ],
)
def test_construction_checks_of_the_other_modules(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_subclass_with_options_of_its_own_is_shown():
    class Weighed(zlpr_torch.ZLPRLoss):
        def __init__(self, gamma=1.0, **options):
            super().__init__(**options)
            self.gamma = gamma

    assert repr(Weighed(threshold=0.5)) == "Weighed(dim=-1, threshold=0.5, reduction='mean')"
