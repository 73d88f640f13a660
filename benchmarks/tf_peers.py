"""TensorFlow under XLA, and a training step of Keras: ZLPR beside binary cross-entropy."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

PLANS = TemporaryDirectory()  # XLA writes down how it lays out memory, which TensorFlow has no function to ask for
os.environ["XLA_FLAGS"] = f"--xla_dump_to={PLANS.name} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*both.*"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from cases import Case, draw  # noqa: E402
from measure import Candidate, Field, Memory, copying  # noqa: E402

import zlpr_tf  # noqa: E402

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
VERSIONS = {"tensorflow": tf.__version__, "keras": keras.__version__}
EXTRA_CASES: tuple[Case, ...] = ()
FEATURES = 64


def field(case: Case, threads: int) -> Field:
    """The candidates for this case; Keras where the logits are those of a layer in float32."""
    logits, target = map(tf.convert_to_tensor, draw(case))
    logits = tf.cast(logits, case.dtype)
    floating = tf.cast(target, case.dtype)
    target = floating if case.soft else target
    candidates = [
        function("zlpr", lambda t, s: zlpr_tf.zlpr_loss(t, s, axis=case.axes), target, logits),
        function("tf.nn BCE", tf.nn.sigmoid_cross_entropy_with_logits, floating, logits),
    ]
    if case.class_axes == 1 and case.dtype == "float32":
        candidates += [
            training("keras zlpr", zlpr_tf.ZLPRLoss(), target),
            training("keras BCE", keras.losses.BinaryCrossentropy(from_logits=True), floating),
        ]
    return Field(candidates, copying(logits.numpy(), threads))


def function(name: str, loss: Loss, target: tf.Tensor, logits: tf.Tensor) -> Candidate:
    """The mean of ``loss``, alone and with its gradient in the logits, as two XLA programs."""

    @tf.function(jit_compile=True)
    def forward(t: tf.Tensor, s: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(loss(t, s))

    @tf.function(jit_compile=True)
    def both(t: tf.Tensor, s: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(s)
            mean = tf.reduce_mean(loss(t, s))
        return mean, tape.gradient(mean, s)

    passes = {
        "forward": lambda: forward(target, logits).numpy(),
        "forward+backward": lambda: both(target, logits)[0].numpy(),
    }
    return Candidate(
        name, "tf.nn BCE", passes, lambda: Memory(peak=held(both.get_concrete_function(target, logits).name.decode()))
    )


def held(program: str) -> int:
    """Bytes beyond the inputs and constants, as XLA laid them out."""
    (plan,) = Path(PLANS.name).glob(f"*{program.strip('_')}_*buffer-assignment.txt")
    sizes = re.findall(
        r"^allocation \d+: size (\d+), (?!parameter|constant|thread-local)", plan.read_text(), re.MULTILINE
    )
    return sum(map(int, sizes))


def training(name: str, loss: keras.losses.Loss, target: tf.Tensor) -> Candidate:
    """One step of a model of one layer."""
    rows, classes = target.shape
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(classes)])
    model.compile("sgd", loss=loss)
    features = tf.convert_to_tensor(np.random.default_rng(0).standard_normal((rows, FEATURES), np.float32))
    return Candidate(name, "keras BCE", {"training step": lambda: model.train_on_batch(features, target)})
