"""TensorFlow: a linear layer and its loss in one, beside the dense layer with binary cross-entropy under XLA."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cases import FEATURES, Case
from measure import Candidate, Field, Memory, copying
from tf_peers import VERSIONS, held, np, tf

import zlpr_tf as z

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
PEER = "dense BCE"
FEW = 128  # classes to a chunk, beside what is taken unless told
Loss = Callable[..., tf.Tensor]


class Drawn(NamedTuple):
    """Inputs, kernel and bias, and labels in three forms."""

    arrays: list[tf.Tensor]
    ids: tf.Tensor
    hot: tf.Tensor
    floating: tf.Tensor


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    drawn = draw(case)
    by_ids = z.sparse_linear_zlpr_loss
    bce = tf.nn.sigmoid_cross_entropy_with_logits
    losses: dict[str, tuple[Loss, tf.Tensor]] = {
        PEER: (lambda labels, x, k, b: bce(labels, x @ k + b), drawn.floating),
        "dense zlpr": (lambda labels, x, k, b: z.zlpr_loss(labels, x @ k + b), drawn.hot),
        "zlpr": (lambda labels, x, k, b: z.linear_zlpr_loss(labels, x, k, bias=b), drawn.hot),
        "zlpr, class ids": (lambda ids, x, k, b: by_ids(ids, x, k, bias=b), drawn.ids),
        f"zlpr, {FEW} classes": (lambda ids, x, k, b: by_ids(ids, x, k, bias=b, chunk=FEW), drawn.ids),
    }
    candidates = [candidate(name, loss, [labels, *drawn.arrays]) for name, (loss, labels) in losses.items()]
    candidates.append(candidate("zlpr, no XLA", losses["zlpr"][0], [drawn.hot, *drawn.arrays], xla=False))
    return Field(candidates, copying(np.zeros(case.shape, np.float32), threads))


def draw(case: Case) -> Drawn:
    """The same at every call: three labels a row."""
    random = np.random.default_rng(0)
    rows, classes = case.shape
    shapes = (rows, FEATURES), (FEATURES, classes), (classes,)
    arrays = [tf.constant(random.standard_normal(shape, np.float32) / FEATURES**0.25) for shape in shapes]
    ids = tf.constant(random.integers(classes, size=(rows, 3)))
    hot = z.multi_hot(ids, classes)
    return Drawn(arrays, ids, hot, tf.cast(hot, tf.float32))


def candidate(name: str, loss: Loss, inputs: list[tf.Tensor], *, xla: bool = True) -> Candidate:
    """Forward and backward of the mean. XLA tells the peak, the gradients counted; other graphs tell none."""

    @tf.function(jit_compile=xla)
    def both(labels: tf.Tensor, *arrays: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            mean = tf.reduce_mean(loss(labels, *arrays))
        return mean, tape.gradient(mean, list(arrays))

    passes = {"forward+backward": lambda: both(*inputs)[0].numpy()}
    return Candidate(name, PEER, passes, partial(memory, both, inputs) if xla else Memory)


def memory(both: tf.types.experimental.PolymorphicFunction, inputs: list[tf.Tensor]) -> Memory:
    """As XLA laid it out."""
    return Memory(peak=held(both.get_concrete_function(*inputs).name.decode()))
