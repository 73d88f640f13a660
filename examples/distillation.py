"""Distillation in PyTorch: a small student that fits what a large teacher says, on Yeast.

Soft ZLPR is least where σ(2s) is the target, so the targets are ``probabilities(teacher_logits)``. What the loss then
has above its floor, ``zlpr_entropy``, is ``zlpr_divergence`` of teacher and student: 0 when the student says the same.
"""

import torch
from data import Split, load_yeast, split
from torch import Tensor, nn

from zlpr_torch import ZLPRLoss, predict, probabilities, zlpr_divergence

EPOCHS, BATCH_SIZE = 10, 64


def network(features: int, classes: int, hidden: int) -> nn.Module:
    """One hidden layer; it ends in raw logits."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def fit(model: nn.Module, x: Tensor, target: Tensor, *, epochs: int) -> nn.Module:
    """Train with ZLPR, which takes hard and soft targets alike."""
    criterion, optimizer = ZLPRLoss(), torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH_SIZE):
            optimizer.zero_grad()
            criterion(model(x[batch]), target[batch]).backward()
            optimizer.step()
    return model


def distil(part: Split, *, epochs: int = EPOCHS) -> dict[str, float]:
    """How far the student is from its teacher, and how many label sets both get right."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y, x_test, y_test = (torch.from_numpy(array) for array in part)
    features, classes = x.shape[1], y.shape[1]
    teacher = fit(network(features, classes, 256), x, y, epochs=epochs)
    with torch.no_grad():
        target = probabilities(teacher(x), scale=2.0)
    untrained = network(features, classes, 64)
    before = divergence(teacher, untrained, x)
    student = fit(untrained, x, target, epochs=3 * epochs)
    right = {
        name: (predict(model(x_test)) == y_test.bool()).all(dim=1).float().mean().item()
        for name, model in (("teacher", teacher), ("student", student))
    }
    return {"before": before, "after": divergence(teacher, student, x), **right}


@torch.no_grad()
def divergence(teacher: nn.Module, student: nn.Module, x: Tensor) -> float:
    """How much more than its least value soft ZLPR costs the student, with the teacher's probabilities as targets."""
    return zlpr_divergence(teacher(x), student(x)).item()


def main() -> None:
    """Train both and say how near they came."""
    result = distil(split(load_yeast(), seed=0))
    print(
        f"divergence of the student from its teacher: {result['before']:.2f} at first, {result['after']:.2f} at the end"
    )
    print(f"subset accuracy: teacher {result['teacher']:.3f}, student {result['student']:.3f}")


if __name__ == "__main__":
    main()
