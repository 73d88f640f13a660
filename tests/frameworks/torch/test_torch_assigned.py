"""Options that are assigned to a module later: as if they had been there at construction."""

import copy
import pickle

import numpy as np
import pytest
import torch

from zlpr_torch import RDropZLPRLoss, SparseZLPRLoss, ZLPRKLDivLoss, ZLPRLoss, zlpr_loss

torch.manual_seed(0)
LOGITS = torch.randn(6, 5, dtype=torch.float64)
HARD = torch.rand(6, 5) < 0.4
VECTOR = torch.rand(5)
TENSORS = ("weight", "pos_weight", "threshold")
FORMS = {"tensor": VECTOR, "list": VECTOR.tolist(), "NumPy array": VECTOR.numpy()}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", TENSORS)
def test_an_assigned_tensor_is_saved_and_moves(name, form):
    module = ZLPRLoss()
    setattr(module, name, form)
    assert list(module.state_dict()) == [name]
    torch.testing.assert_close(module(LOGITS, HARD), zlpr_loss(LOGITS, HARD, **{name: form}), rtol=1e-6, atol=0)
    assert getattr(module.to("meta"), name).is_meta


@pytest.mark.parametrize("name", TENSORS)
def test_any_form_follows_any_other(name):
    forms = [VECTOR, 0.5, None, [1.0] * 5, torch.ones(5), np.float32(0.25), torch.nn.Parameter(VECTOR), None]
    module = ZLPRLoss()
    for form in forms:
        setattr(module, name, form)
        plain = form.detach() if isinstance(form, torch.Tensor) else form
        expected = zlpr_loss(LOGITS, HARD, **{name: plain})
        torch.testing.assert_close(module(LOGITS, HARD).detach(), expected, rtol=1e-6, atol=0)
    assert not module.state_dict()
    assert "None" not in repr(module)


def test_none_is_the_default_of_every_option():
    logits, ids = LOGITS.roll(1, 0), torch.where(HARD, torch.arange(5), -1)
    calls = {ZLPRLoss: (LOGITS, HARD), SparseZLPRLoss: (LOGITS, ids), RDropZLPRLoss: (LOGITS, logits, HARD), ZLPRKLDivLoss: (LOGITS, logits)}  # fmt: skip
    for make, arguments in calls.items():
        default = make()
        nones = make(**dict.fromkeys(default._names))
        later = make()
        for name in default._names:
            setattr(later, name, None)
        for module in (nones, later):
            torch.testing.assert_close(module(*arguments), default(*arguments), rtol=0, atol=0)
            assert repr(module) == repr(default)


ILLEGAL = {
    "dim": ["C", 1.5, True, ("C",)],
    "weight": [-1.0, [1.0, -1.0], torch.tensor([1.0, torch.inf]), torch.nan, "heavy"],
    "pos_weight": [-1.0, np.asarray([np.nan]), torch.tensor(-1.0)],
    "threshold": ["high", {}],
    "label_smoothing": [-0.1, 2, "0.1", ""],
    "ignore_index": ["NA", [0]],
    "reduction": ["avg", 1],
    "impl": ["fast", 1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ILLEGAL.items() for value in values])
def test_what_construction_refuses_is_refused_later(name, value):
    module = ZLPRLoss()
    before = dict(vars(module))
    for call in (lambda: ZLPRLoss(**{name: value}), lambda: setattr(module, name, value)):
        with pytest.raises((TypeError, ValueError), match=rf"^`{name}` must be .*\. Received: .*"):
            call()
    assert vars(module) == before


OF_OTHERS = [
    (SparseZLPRLoss, "pad", 1.5),
    (SparseZLPRLoss, "dim", "C"),
    (RDropZLPRLoss, "alpha", -1.0),
    (RDropZLPRLoss, "scale", 0.0),
    (RDropZLPRLoss, "pos_weight", -1.0),
    (ZLPRKLDivLoss, "scale", "2"),
    (ZLPRKLDivLoss, "dim", "C"),
    (ZLPRKLDivLoss, "reduction", "avg"),
]


@pytest.mark.parametrize(("make", "name", "value"), OF_OTHERS)
def test_so_it_is_of_the_other_modules(make, name, value):
    for call in (lambda: make(**{name: value}), lambda: setattr(make(), name, value)):
        with pytest.raises((TypeError, ValueError), match=rf"^`{name}` must be .*\. Received: .*"):
            call()


def test_legal_numbers_and_axes_can_be_assigned():
    module = ZLPRLoss()
    module.dim, module.reduction, module.label_smoothing, module.ignore_index = (0, 1), "sum", 0.25, torch.nan
    module.impl = "plain"
    expected = zlpr_loss(LOGITS, HARD.double(), dim=(0, 1), reduction="sum", label_smoothing=0.25)
    torch.testing.assert_close(module(LOGITS, HARD.double()), expected)


def test_copies_hold_what_was_assigned():
    module = ZLPRLoss()
    module.pos_weight, module.dim = VECTOR, (0, 1)
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module)):
        assert list(clone.state_dict()) == ["pos_weight"]
        torch.testing.assert_close(clone(LOGITS, HARD), module(LOGITS, HARD), rtol=0, atol=0)
        with pytest.raises(TypeError, match="`dim` must be"):
            clone.dim = "C"


def test_a_saved_state_is_loaded_where_the_option_is():
    """Also one of BCEWithLogitsLoss, whose buffers have these names. Else PyTorch names the key that it did not expect."""
    saved = torch.nn.BCEWithLogitsLoss(weight=torch.rand(5), pos_weight=VECTOR).state_dict()
    module = ZLPRLoss()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict(saved)
    module.weight, module.pos_weight = [1.0] * 5, torch.ones(5)
    module.float().load_state_dict(saved)
    torch.testing.assert_close(module(LOGITS, HARD), zlpr_loss(LOGITS, HARD, **saved), rtol=0, atol=0)
