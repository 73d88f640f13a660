"""A model of very many labels, and optimisers that take the gradient of their weights a chunk at a time."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from extreme_data import Rows
from torch import Tensor, nn

from zlpr_torch import LinearZLPRLoss

SIZE = 64  # of the encoder's output
LENGTH = 4.0  # of it, as a vector
RATE, ENCODER_RATE = {"adagrad": 0.5, "sgd": 1.0}, 0.05
FIRST = 0.01  # what Adagrad starts from: rows of a gradient far below it, as that of negatives, are hardly moved
BEST = 5  # labels of a row, to be compared with its own


class SGD:
    """``rows`` of the parameter go down their gradient."""

    def __init__(self, parameter: Tensor, rate: float) -> None:
        self.parameter, self.rate = parameter, rate

    @torch.no_grad()
    def step(self, rows: slice, gradient: Tensor) -> None:
        """In place."""
        self.parameter[rows].sub_(gradient, alpha=self.rate)


class Adagrad:
    """The same with a rate for each row, which falls as its gradients add up: one number more a row."""

    def __init__(self, parameter: Tensor, rate: float) -> None:
        self.parameter, self.rate = parameter, rate
        self.squares = torch.full((len(parameter), 1), FIRST**2)

    @torch.no_grad()
    def step(self, rows: slice, gradient: Tensor) -> None:
        """In place."""
        cells = gradient.reshape(len(gradient), -1)
        squares = self.squares[rows].add_(cells.square().mean(1, keepdim=True))
        self.parameter[rows].view_as(cells).addcdiv_(cells, squares.sqrt(), value=-self.rate)


OPTIMIZERS = {"adagrad": Adagrad, "sgd": SGD}


class Model(nn.Module):
    """A bag of words, made a vector of one length, and a layer with a row of weights for each label."""

    def __init__(self, features: int, labels: int) -> None:
        super().__init__()
        self.encoder = nn.EmbeddingBag(features, SIZE, mode="sum")
        self.head = LinearZLPRLoss(SIZE, labels, sparse=True, reduction="sum")
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -math.log(labels))  # all labels together are as likely as none

    def encode(self, rows: Rows, chosen: np.ndarray) -> Tensor:
        """Of some rows."""
        words, values, starts = map(torch.from_numpy, rows.words_of(chosen))
        bags = self.encoder(words.long(), starts, per_sample_weights=values)
        return LENGTH * nn.functional.normalize(bags)


class Trainer:
    """What learns: the weights of the labels by the hook, the rest once its gradient is there."""

    def __init__(self, model: Model, optimizer: str) -> None:
        make, rate = OPTIMIZERS[optimizer], RATE[optimizer]
        encoder, head, self.model = model.encoder, model.head, model
        head.weight_grad_hook = make(head.weight, rate / math.sqrt(SIZE)).step
        self.rest = [make(encoder.weight, ENCODER_RATE), make(head.bias, rate / 5)]

    def step(self, rows: Rows, chosen: np.ndarray) -> float:
        """One batch; the mean loss of its rows before."""
        loss = self.model.head(self.model.encode(rows, chosen), torch.from_numpy(rows.labels_of(chosen)))
        loss.backward()
        for optimizer in self.rest:
            optimizer.step(slice(None), optimizer.parameter.grad)
            optimizer.parameter.grad = None
        return loss.item() / len(chosen)

    def epoch(self, rows: Rows, batch: int, rng: np.random.Generator) -> Iterator[float]:
        """Every row once, in an order of chance; the loss of each batch."""
        order = rng.permutation(len(rows))
        for first in range(0, len(rows), batch):
            yield self.step(rows, order[first : first + batch])


@torch.no_grad()
def best_labels(model: Model, rows: Rows, batch: int) -> Iterator[np.ndarray]:
    """Those of the highest logits, a batch of rows at a time, which never have all logits at once."""
    for first in range(0, len(rows), batch):
        chosen = np.arange(first, min(first + batch, len(rows)))
        yield model.head.topk(model.encode(rows, chosen), BEST).indices.numpy()
