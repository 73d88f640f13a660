"""What a user's type checker must accept and infer. Read by ``nox -s types``, never run."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import torch

import zlpr_core
import zlpr_jax
import zlpr_torch

Floats = npt.NDArray[np.float64]


def core(logits: Floats, targets: npt.NDArray[np.int64], where: npt.NDArray[np.bool_]) -> None:
    assert_type(zlpr_core.zlpr(logits, targets, where=where, weight=logits, threshold=0.5, axis=(-2, -1)), Floats)
    assert_type(zlpr_core.zlpr_terms(logits, targets), tuple[Floats, Floats])
    assert_type(zlpr_core.zlpr_grad(logits, targets), Floats)
    assert_type(zlpr_core.zlpr_hessian_diag(logits, targets), Floats)
    assert_type(zlpr_core.sparse_zlpr(logits, targets), Floats)
    assert_type(zlpr_core.sparse_zlpr(logits, [[0], [1, 2]]), Floats)
    assert_type(zlpr_core.kl_divergence(logits, logits, scale=2.0), Floats)
    assert_type(zlpr_core.rdrop_zlpr(logits, logits, targets, alpha=1.0), Floats)
    assert_type(zlpr_core.span_to_index(1, 2, 8), int)
    assert_type(zlpr_core.span_to_index(targets, targets, 8), npt.NDArray[np.int64])
    assert_type(zlpr_core.index_to_span(12, 8), tuple[int, int])
    assert_type(zlpr_core.probabilities(logits), Floats)
    assert_type(zlpr_core.smooth_labels(logits, 0.1, mode="positive"), Floats)


def pytorch(input: torch.Tensor, target: torch.Tensor) -> None:
    assert_type(zlpr_torch.zlpr_loss(input, target, dim=(-2, -1), mask=target, reduction="none"), torch.Tensor)
    assert_type(zlpr_torch.predict(input), torch.Tensor)
    assert_type(zlpr_torch.zlpr_entropy(target), torch.Tensor)
    assert_type(zlpr_torch.sparse_zlpr_loss(input, [target, target]), torch.Tensor)
    assert_type(zlpr_torch.zlpr_divergence(input, input, reduction="sum"), torch.Tensor)
    assert_type(zlpr_torch.multi_hot(target, 5), torch.Tensor)
    criterion = zlpr_torch.ZLPRLoss(weight=target, threshold=torch.nn.Parameter(target), reduction="sum")
    criterion(input, target, mask=target).backward()


def in_jax(logits: jax.Array, labels: Floats) -> None:
    assert_type(zlpr_jax.zlpr_loss(logits, labels, where=labels > 0, threshold=jnp.zeros(3)), jax.Array)
    assert_type(zlpr_jax.sparse_zlpr_loss(logits, [[0], [1, 2]]), jax.Array)
    assert_type(zlpr_jax.kl_divergence(logits, logits, scale=2.0), jax.Array)
    assert_type(zlpr_jax.predict(logits), jax.Array)
