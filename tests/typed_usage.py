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
    assert_type(zlpr_core.probabilities(logits), Floats)
    assert_type(zlpr_core.smooth_labels(logits, 0.1, mode="positive"), Floats)


def pytorch(input: torch.Tensor, target: torch.Tensor) -> None:
    assert_type(zlpr_torch.zlpr_loss(input, target, dim=(-2, -1), mask=target, reduction="none"), torch.Tensor)
    assert_type(zlpr_torch.predict(input), torch.Tensor)
    assert_type(zlpr_torch.zlpr_entropy(target), torch.Tensor)
    criterion = zlpr_torch.ZLPRLoss(weight=target, threshold=torch.nn.Parameter(target), reduction="sum")
    criterion(input, target, mask=target).backward()


def in_jax(logits: jax.Array, labels: Floats) -> None:
    assert_type(zlpr_jax.zlpr_loss(logits, labels, where=labels > 0, threshold=jnp.zeros(3)), jax.Array)
    assert_type(zlpr_jax.predict(logits), jax.Array)
