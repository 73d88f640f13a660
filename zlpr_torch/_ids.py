"""Class ids, in whatever form users of PyTorch have them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zlpr_core._checks import refuse_sparse
from zlpr_core._indices import PAD, Ids, check_matrix, indicated, is_matrix, read_ids
from zlpr_core._options import Logits
from zlpr_core._typing import Axis

from ._arguments import check_tensors
from ._namespace import asarray, xp
from ._torch_internals import sparse_entries

FEW = 200
"""Positives are few if there is one among so many cells. Each takes 40 bytes on the way: a fifth of a byte a cell."""


def targets_of(indices: Any, input: Tensor, dim: Axis, pad: int | None) -> Tensor:
    """The dense targets that class ids of any form stand for."""
    if isinstance(indices, Tensor) and indices.is_nested:
        check_tensors(indices=indices)
    if isinstance(indices, Tensor) and indices.layout != torch.strided:
        return _from_matrix(indices, input, dim)
    target: Tensor = indicated(as_ids(indices, input.device, pad), input, dim, pad, xp=xp)
    return target


def as_ids(indices: Any, device: torch.device, pad: int | None) -> Any:
    """A tensor of a list of tensors, or of NumPy's arrays. What else there is stays as it came."""
    if isinstance(indices, (list, tuple)) and indices and isinstance(indices[0], Tensor):
        rows = [_id_row(row) for row in indices]
        return pad_sequence(rows, batch_first=True, padding_value=PAD if pad is None else pad).to(device)
    if isinstance(indices, (Tensor, list, tuple)):
        return indices
    # Dynamo cannot tell an array's attributes (torch 2.6), and compiled code is handed no SciPy matrix.
    if torch.compiler.is_compiling() or (hasattr(indices, "__array__") and not is_matrix(indices)):
        return asarray(indices, device=device)
    return indices


def ids_of_part(indices: Any, logits: Any, pad: int | None, first: int, total: int) -> Ids:
    """The ids, counted from class ``first`` of ``total``, which is the first of ``logits``. Of no matrix."""
    refuse_sparse(indices, "indices", xp=xp)
    if isinstance(indices, Tensor):
        check_tensors(indices=indices)
    whole: Any = Logits((*logits.shape[:-1], total), logits.dtype, logits.device)
    read, _ = read_ids(as_ids(indices, logits.device, pad), whole, (len(whole.shape) - 1,), pad, xp=xp)
    return read if first == 0 else read._replace(ids=read.ids - first)


def ids_of_hot(hot: Tensor) -> Ids | None:
    """The class ids that bool targets stand for. None if these are many, which take longer than the targets."""
    if hot.count_nonzero() > hot.numel() // FEW:
        return None
    rows, classes = hot.nonzero(as_tuple=True)
    numbers = rows.bincount(minlength=len(hot))
    most = int(numbers.max())
    if most * len(hot) > hot.numel() // FEW:  # nearly all in one row
        return None
    unused = torch.arange(most, device="cpu") >= numbers.unsqueeze(1)
    ids = torch.zeros(unused.shape, dtype=classes.dtype, device="cpu")
    ids[~unused] = classes
    return Ids(ids, unused, None)


def _id_row(row: Tensor) -> Tensor:
    """As int64: ``pad_sequence`` would give all rows the dtype of the first."""
    check_tensors(indices=row)
    if row.dim() != 1 or (row.numel() and not xp.isdtype(row.dtype, "integral")):
        msg = f"`indices` as a list must hold 1-D integer tensors. Received: {row.dim()}-D, {row.dtype}."
        raise TypeError(msg)
    return row.long()


def _from_matrix(matrix: Tensor, input: Tensor, dim: Axis) -> Tensor:
    """int8 targets from a sparse matrix, with 2 where an entry is neither 0 nor 1, which makes the loss NaN."""
    check_matrix(matrix, input, dim, xp=xp)
    (rows, columns), values = sparse_entries(matrix.to_sparse_coo())  # type: ignore[no-untyped-call]
    kinds = torch.where((values == 0) | (values == 1), values, 2).to(torch.int8)
    return torch.zeros(input.shape, dtype=torch.int8, device=kinds.device).index_put((rows, columns), kinds)
