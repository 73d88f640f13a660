"""PyTorch, eager and compiled: ZLPR beside the losses that its users come from."""

from functools import partial
from importlib.metadata import version

import torch
from cases import Case
from measure import Call, Candidate, Field, Memory
from torch import Tensor
from torch_calls import Loss, compiled, draw, load_timm, on_cpu

from zlpr_torch import zlpr_loss

timm = load_timm()
VERSIONS = {"torch": torch.__version__, "timm": version("timm")}
EXTRA_CASES: tuple[Case, ...] = ()


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    torch.set_num_threads(threads)
    torch.compiler.reset()  # else PyTorch stops compiling at its limit of eight shapes
    logits, target = draw(case)
    floating = target.to(logits.dtype)  # as the peers require; made beforehand, so it is not timed
    zlpr, bce = partial(zlpr_loss, dim=case.axes), torch.nn.BCEWithLogitsLoss()
    build = partial(candidate, logits=logits)
    candidates = [
        build("zlpr", zlpr, target, peer="BCE"),
        build("zlpr compiled", compiled(zlpr), target, peer="BCE compiled"),
        build("BCE", bce, floating, peer="BCE"),
        build("BCE compiled", compiled(bce), floating, peer="BCE compiled"),
        *(build(name, loss, floating, peer="BCE") for name, loss in others(case).items()),
    ]
    return Field(candidates, copy(logits))


def others(case: Case) -> dict[str, Loss]:
    """The peers that take such targets, beside the four that take all."""
    losses: dict[str, Loss] = {
        "soft margin": torch.nn.MultiLabelSoftMarginLoss(),
        "timm ASL": timm.AsymmetricLossMultiLabel(),
    }
    if not case.soft:
        losses |= {"timm ZLPR": flat(timm.ZlprLoss(), case), "textbook ZLPR": flat(textbook, case)}
    return losses


def textbook(s: Tensor, t: Tensor) -> Tensor:
    """The snippet that is usually pasted, for targets of 0 and 1, written from its formula."""
    s = (1 - 2 * t) * s
    zero = torch.zeros_like(s[..., :1])
    negative = torch.cat([s - 1e12 * t, zero], dim=-1)
    positive = torch.cat([s - 1e12 * (1 - t), zero], dim=-1)
    return (torch.logsumexp(negative, dim=-1) + torch.logsumexp(positive, dim=-1)).mean()


def flat(loss: Loss, case: Case) -> Loss:
    """Let a loss that knows one class axis run on several, by flattening them."""
    return lambda s, t: loss(s.flatten(-case.class_axes), t.flatten(-case.class_axes))


def candidate(name: str, loss: Loss, target: Tensor, *, peer: str, logits: Tensor) -> Candidate:
    """``loss`` of these logits, alone and with the gradient."""

    def forward() -> Tensor:
        return loss(logits, target)

    def both() -> Tensor:
        return torch.autograd.grad(forward(), logits)[0]

    passes = {"forward": forward, "forward+backward": both}
    return Candidate(name, peer, passes, lambda: Memory(on_cpu(forward)[0], on_cpu(both)[1]))


def copy(logits: Tensor) -> Call:
    """The floor: one copy of the logits."""
    source = logits.detach()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
