"""PyTorch: every loss, divergence and option of zlpr beside binary cross-entropy, or two where there are two logits."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from cases import Case
from measure import Call, Candidate, Field, Memory, wall
from torch import Tensor
from torch.nn import functional
from torch_calls import compiled, draw, on_cpu
from torch_peers import VERSIONS, copy

import zlpr_torch as z

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
ONE, TWO = "BCE", "two BCE"


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    torch.set_num_threads(threads)
    torch.compiler.reset()
    logits, target = draw(case)
    second = (logits.detach() + torch.randn_like(logits)).requires_grad_()
    floating = target.to(logits.dtype)
    bce = partial(functional.binary_cross_entropy_with_logits, target=floating)
    with_options = {name: partial(z.zlpr_loss, target=target, **given) for name, given in options(logits).items()}
    alone = {"zlpr": partial(z.zlpr_loss, target=target), **with_options, "terms": partial(terms, target=target)}
    alone["class ids"] = partial(z.sparse_zlpr_loss, indices=ids(target))
    pairs = {
        "KL": z.kl_divergence,
        "symmetric KL": z.symmetric_kl_divergence,
        "zlpr_divergence": z.zlpr_divergence,
        "R-Drop": partial(z.rdrop_zlpr_loss, target=target),
        TWO: lambda p, q: bce(p) + bce(q),
        "naive symmetric KL": naive,
        "kl_div": bernoulli,
    }
    threshold = torch.zeros(logits.shape[-1], requires_grad=True)
    learned = partial(lambda s, theta: z.zlpr_loss(s, target, threshold=theta))
    candidates = [candidate(name, loss, [logits], ONE) for name, loss in {ONE: bce, **alone}.items()]
    candidates.append(candidate("learned threshold", learned, [logits, threshold], ONE))
    candidates += [candidate(name, loss, [logits, second], TWO) for name, loss in pairs.items()]
    candidates.append(candidate("symmetric KL, one side", z.symmetric_kl_divergence, [logits, second.detach()], TWO))
    names = ("KL", "symmetric KL", "zlpr_divergence", "R-Drop", TWO)
    made = {f"{name} compiled": compiled(pairs[name]) for name in names}
    candidates += [candidate(name, loss, [logits, second], f"{TWO} compiled") for name, loss in made.items()]
    return Field(candidates, copy(logits), wall)


def options(logits: Tensor) -> dict[str, dict[str, object]]:
    """Each option by itself."""
    weight = torch.linspace(0.5, 2, logits.shape[-1])
    return {
        "threshold": {"threshold": 0.5},
        "mask": {"mask": torch.rand_like(logits) < 0.9},
        "weight": {"weight": weight},
        "pos_weight": {"pos_weight": weight},
        "smoothing": {"label_smoothing": 1e-6},
        "ignore_index": {"ignore_index": -100},
    }


def terms(logits: Tensor, target: Tensor) -> Tensor:
    """Both halves, as one who weighs them differently would use them."""
    positive, negative = z.zlpr_terms(logits, target)
    return (positive + 2 * negative).mean()


def ids(target: Tensor) -> Tensor:
    """The positives of each row, padded."""
    most = int(target.sum(-1).max())
    order = target.to(torch.int8).argsort(dim=-1, descending=True)[:, :most]
    return torch.where(target.gather(-1, order), order, -1)


def naive(p: Tensor, q: Tensor) -> Tensor:
    """The published line, which loses small gaps and overflows nowhere."""
    return ((p.sigmoid() - q.sigmoid()) * (p - q)).sum(-1).mean()


def bernoulli(p: Tensor, q: Tensor) -> Tensor:
    """``kl_div`` of both outcomes of each label, by log-probabilities."""
    both = (torch.stack([functional.logsigmoid(x), functional.logsigmoid(-x)], -1) for x in (p, q))
    said, right = reversed([*both])
    return functional.kl_div(said, right, reduction="none", log_target=True).sum((-1, -2)).mean()


def candidate(name: str, loss: Callable[..., Tensor], inputs: Sequence[Tensor], peer: str) -> Candidate:
    """``loss`` of these logits, alone and with the gradients."""
    wanted = [x for x in inputs if x.requires_grad]

    def forward() -> Tensor:
        return loss(*inputs)

    def both() -> Tensor:
        return torch.autograd.grad(forward(), wanted)[0]

    passes: dict[str, Call] = {"forward": forward, "forward+backward": both}
    return Candidate(name, peer, passes, lambda: Memory(on_cpu(forward)[0], on_cpu(both)[1]))
