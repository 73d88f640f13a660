"""TensorFlow under XLA: every loss, divergence and option of zlpr beside binary cross-entropy, or two of it."""

from collections.abc import Callable, Sequence

from cases import Case, draw
from measure import Candidate, Field, Memory, copying
from tf_peers import VERSIONS, held, keras, np, tf

import zlpr_tf as z

__all__ = ["EXTRA_CASES", "VERSIONS", "field"]
EXTRA_CASES: tuple[Case, ...] = ()
ONE, TWO = "tf.nn BCE", "two tf.nn BCE"


def field(case: Case, threads: int) -> Field:
    """The candidates for this case."""
    logits, target = map(tf.convert_to_tensor, draw(case))
    noise = np.random.default_rng(1).standard_normal(case.shape, np.float32)
    second, mask = logits + noise, tf.constant(noise < 1.3)
    floating, weight = tf.cast(target, case.dtype), tf.linspace(0.5, 2.0, case.shape[-1])
    alone = {
        ONE: lambda s: tf.nn.sigmoid_cross_entropy_with_logits(floating, s),
        "zlpr": lambda s: z.zlpr_loss(target, s),
        "threshold": lambda s: z.zlpr_loss(target, s, threshold=0.5),
        "mask": lambda s: z.zlpr_loss(target, s, where=mask),
        "weight": lambda s: z.zlpr_loss(target, s, weight=weight),
        "pos_weight": lambda s: z.zlpr_loss(target, s, pos_weight=weight),
        "smoothing": lambda s: z.zlpr_loss(target, s, label_smoothing=1e-6),
        "ignore_index": lambda s: z.zlpr_loss(target, s, ignore_index=-100),
        "terms": lambda s: terms(target, s),
    }
    pairs = {
        TWO: lambda p, q: alone[ONE](p) + alone[ONE](q),
        "KL": z.kl_divergence,
        "symmetric KL": z.symmetric_kl_divergence,
        "zlpr_divergence": z.zlpr_divergence,
        "R-Drop": lambda p, q: z.rdrop_zlpr_loss(target, p, q),
        "naive symmetric KL": lambda p, q: tf.reduce_sum((tf.sigmoid(p) - tf.sigmoid(q)) * (p - q), -1),
        "Keras KLDivergence": bernoulli,
    }
    learned = candidate(
        "learned threshold", lambda s, theta: z.zlpr_loss(target, s, threshold=theta), [logits, 0 * weight], ONE
    )
    candidates = [candidate(name, loss, [logits], ONE) for name, loss in alone.items()]
    candidates += [learned, *(candidate(name, loss, [logits, second], TWO) for name, loss in pairs.items())]
    return Field(candidates, copying(logits.numpy(), threads))


def terms(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Both halves, as one who weighs them differently would use them."""
    positive, negative = z.zlpr_terms(target, logits)
    return positive + 2 * negative


def bernoulli(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """Keras's function of both outcomes of each label, from probabilities."""
    both = (tf.stack([tf.sigmoid(x), tf.sigmoid(-x)], -1) for x in (p, q))
    return tf.reduce_sum(keras.losses.kl_divergence(*both), -1)


def candidate(name: str, loss: Callable[..., tf.Tensor], inputs: Sequence[tf.Tensor], peer: str) -> Candidate:
    """The mean of ``loss``, alone and with its gradients, as two XLA programs."""

    @tf.function(jit_compile=True)
    def forward(*arrays: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(loss(*arrays))

    @tf.function(jit_compile=True)
    def both(*arrays: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            mean = tf.reduce_mean(loss(*arrays))
        return mean, tape.gradient(mean, list(arrays))

    passes = {
        "forward": lambda: forward(*inputs).numpy(),
        "forward+backward": lambda: both(*inputs)[0].numpy(),
    }
    return Candidate(name, peer, passes, lambda: Memory(peak=held(both.get_concrete_function(*inputs).name.decode())))
