"""What people hand over that is no dense tensor: sparse matrices, nested tensors, NumPy's ids, other bytes, inference mode."""

import numpy as np
import pytest
import torch
from scipy import sparse

import zlpr_torch
from zlpr_torch import SparseZLPRLoss, ZLPRLoss, kl_divergence, rdrop_zlpr_loss, sparse_zlpr_loss, zlpr_loss, zlpr_terms

torch.manual_seed(0)
LOGITS = torch.randn(6, 5)
SOFT = torch.rand(6, 5)
HARD = SOFT < 0.4
IDS = torch.where(HARD, torch.arange(5), -1)
EXACT = {"rtol": 0, "atol": 0}
MATRICES = {
    "SciPy csr": lambda: sparse.csr_array(HARD.numpy()),
    "SciPy coo": lambda: sparse.coo_array(HARD.float().numpy()),
    "SciPy matrix": lambda: sparse.csr_matrix(HARD.numpy()),
    "torch coo": lambda: HARD.float().to_sparse_coo(),
    "torch csr": lambda: HARD.float().to_sparse_csr(),
    "torch csc": lambda: HARD.float().to_sparse_csc(),
}
each_matrix = pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
pytestmark = pytest.mark.filterwarnings("ignore:Sparse C.. tensor support is in beta state:UserWarning")


@each_matrix
def test_a_sparse_matrix_as_dense_targets(make):
    """The message leads to a call that works."""
    matrix = make()
    for call in (
        lambda: zlpr_loss(LOGITS, matrix),
        lambda: zlpr_terms(LOGITS, matrix),
        lambda: rdrop_zlpr_loss(LOGITS, LOGITS, matrix),
        lambda: ZLPRLoss()(LOGITS, matrix),
    ):
        with pytest.raises(TypeError, match=r"^`target` must be dense\. Received: a sparse \w+; .*`sparse_zlpr_loss`"):
            call()
    torch.testing.assert_close(sparse_zlpr_loss(LOGITS, matrix), zlpr_loss(LOGITS, HARD), **EXACT)


@each_matrix
def test_a_sparse_matrix_anywhere_else(make):
    matrix = make()
    calls = {
        "input": lambda: zlpr_loss(matrix, HARD),
        "p_logits": lambda: kl_divergence(matrix, LOGITS),
        "target": lambda: zlpr_torch.zlpr_entropy(matrix),
        "indices": lambda: zlpr_torch.multi_hot(matrix, 5),
    }
    if isinstance(matrix, torch.Tensor):
        calls["mask"] = lambda: zlpr_loss(LOGITS, HARD, mask=matrix)
        calls["weight"] = lambda: zlpr_loss(LOGITS, HARD, weight=matrix)
        calls["pos_weight"] = lambda: ZLPRLoss(pos_weight=matrix)
        calls["threshold"] = lambda: zlpr_torch.predict(LOGITS, threshold=matrix)
    for argument, call in calls.items():
        with pytest.raises(TypeError, match=rf"^`{argument}` must be dense\. Received: a sparse"):
            call()


def nested(parts, layout):
    return torch.nested.nested_tensor(list(parts), layout=layout)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
def test_nested_tensors(layout):
    """The message leads to a call that works: the values of a jagged one are rows as any."""
    logits, target = (nested(x.split([1, 5]), layout) for x in (LOGITS, HARD))
    for argument, call in {
        "input": lambda: zlpr_loss(logits, target),
        "target": lambda: zlpr_loss(LOGITS, target),
        "mask": lambda: zlpr_loss(LOGITS, HARD, mask=target),
        "weight": lambda: ZLPRLoss(weight=logits),
        "p_logits": lambda: kl_divergence(logits, logits),
        "input1": lambda: rdrop_zlpr_loss(logits, logits, target),
    }.items():
        with pytest.raises(
            TypeError, match=rf"^`{argument}` must be one tensor\. .* layout=torch\.jagged, .*`\.values\(\)`"
        ):
            call()
    ids = nested([row[row >= 0] for row in IDS], layout)
    with pytest.raises(TypeError, match=r"^`indices` must be one tensor\. Received: a NestedTensor\. .*`\.unbind\(\)`"):
        SparseZLPRLoss()(LOGITS, ids)
    torch.testing.assert_close(SparseZLPRLoss()(LOGITS, ids.unbind()), zlpr_loss(LOGITS, HARD), **EXACT)


def test_the_values_of_jagged_tensors():
    logits, target = (nested(x.split([1, 5]), torch.jagged).requires_grad_(x is LOGITS) for x in (LOGITS, HARD))
    loss, x = zlpr_loss(logits.values(), target.values()), LOGITS.clone().requires_grad_()
    expected = zlpr_loss(x, HARD)
    torch.testing.assert_close(loss, expected, **EXACT)
    (slope,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(slope.values(), torch.autograd.grad(expected, x)[0], **EXACT)
    chosen = zlpr_torch.predict(logits)  # cell by cell, which a jagged tensor can do
    assert torch.equal(chosen.values(), LOGITS > 0)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_class_ids_of_numpy(dtype):
    ids, pad = np.where(HARD, np.arange(5), 127).astype(dtype), 127
    expected = zlpr_loss(LOGITS, HARD)
    forms = (ids, [row[row != pad] for row in ids], [row[row != pad].tolist() for row in ids])
    for form in forms:
        torch.testing.assert_close(sparse_zlpr_loss(LOGITS, form, pad=pad), expected, **EXACT)
        torch.testing.assert_close(SparseZLPRLoss(pad=pad)(LOGITS, form), expected, **EXACT)
    assert torch.equal(zlpr_torch.multi_hot(ids, 5, pad=pad), HARD)


def test_class_ids_of_numpy_in_a_compiled_function():
    compiled = torch.compile(lambda x: sparse_zlpr_loss(x, IDS.numpy()), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(LOGITS), zlpr_loss(LOGITS, HARD))


def test_illegal_class_ids_of_numpy():
    with pytest.raises(IndexError, match=r"`indices` must be in \[0, 5\) or `pad` \(-1\). Received: 7 at \[0, 0\]"):
        sparse_zlpr_loss(LOGITS, np.full((6, 1), 7))
    with pytest.raises(TypeError, match=r"`indices` must be integer class ids. Received dtype: torch.float64"):
        sparse_zlpr_loss(LOGITS, np.zeros((6, 1)))


def test_arrays_of_numpy_as_dense_arguments():
    for argument, call in {"input": lambda: zlpr_loss(LOGITS.numpy(), HARD), "target": lambda: zlpr_loss(LOGITS, HARD.numpy())}.items():  # fmt: skip
        with pytest.raises(TypeError, match=rf"`{argument}` must be a torch.Tensor. Received: ndarray. Wrap it"):
            call()


@pytest.mark.parametrize("rows", [6, 6000], ids=["small", "large"])
def test_bool_tensors_that_hold_other_bytes(rows):
    """A mask of 0 and 255, as images have them, seen as bool."""
    flags = torch.rand(rows, 5) < 0.4
    bytes_ = (flags.numpy() * np.asarray([255, 1, 2, 128, 255], np.uint8)).view(bool)
    seen, x = torch.from_numpy(bytes_), torch.randn(rows, 5).requires_grad_()
    for target, mask in ((seen, None), (HARD[:1].expand(rows, 5), seen), (torch.rand(rows, 5), seen)):
        plain_target = flags if target is seen else target
        got = zlpr_loss(x, target, mask=mask)
        expected = zlpr_loss(
            y := x.detach().clone().requires_grad_(), plain_target, mask=None if mask is None else flags
        )
        torch.testing.assert_close(got, expected, **EXACT)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, y), **EXACT)


@pytest.mark.parametrize("impl", ["auto", "plain"])
@pytest.mark.parametrize("kind", [HARD, HARD.long(), SOFT], ids=["bool", "int64", "soft"])
def test_tensors_of_inference_mode_in_training(kind, impl):
    """BCE refuses such a target; ours takes a copy where autograd would have to save it."""
    with torch.inference_mode():
        target, mask, weight, threshold = kind.clone(), (SOFT > 0.1).clone(), torch.rand(5), torch.tensor(0.25)
    x, y = (LOGITS.clone().requires_grad_() for _ in range(2))
    options = {"mask": mask, "weight": weight, "threshold": threshold}
    normal = {name: option.clone() for name, option in options.items()}
    for given, plain in (({}, {}), (options, normal)):
        got, expected = zlpr_loss(x, target, impl=impl, **given), zlpr_loss(y, kind, impl="plain", **plain)
        torch.testing.assert_close(got, expected)
        slopes = torch.autograd.grad(got, x), torch.autograd.grad(expected, y)
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-7)
