"""PyTorch: a classifier of one hidden layer, trained with ZLPR or with binary cross-entropy."""

from collections.abc import Callable

import torch
from data import Split
from torch import Tensor, nn

from zlpr_torch import ZLPRLoss, predict

LOSSES = {"ZLPR": ZLPRLoss, "BCE": nn.BCEWithLogitsLoss}
HIDDEN, DROPOUT, LEARNING_RATE, BATCH_SIZE = 256, 0.5, 1e-3, 64


def train(split: Split, loss_name: str, *, seed: int, epochs: int, report: Callable) -> None:
    """After each epoch, ``report(logits, labels)`` gets what the model says of the test rows, as NumPy arrays."""
    torch.set_num_threads(1)  # a model this small gains nothing from more, and waits long for them on busy cores
    torch.manual_seed(seed)  # one seed, one start: the initial weights do not depend on the loss
    x, y = torch.from_numpy(split.x_train), torch.from_numpy(split.y_train).float()
    model = classifier(features=x.shape[1], classes=y.shape[1])
    criterion = LOSSES[loss_name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        train_epoch(model, criterion, optimizer, x, y)
        logits = evaluate(model, torch.from_numpy(split.x_test))
        report(logits.numpy(), predict(logits).numpy())


def classifier(*, features: int, classes: int) -> nn.Module:
    """It ends in raw logits: no sigmoid, for either loss."""
    return nn.Sequential(
        nn.Linear(features, HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, classes),
    )


def train_epoch(model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Every row once, in a new order."""
    model.train()
    for batch in torch.randperm(len(x)).split(BATCH_SIZE):
        optimizer.zero_grad()
        loss = criterion(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> Tensor:
    """Logits without dropout."""
    model.eval()
    return model(x)
