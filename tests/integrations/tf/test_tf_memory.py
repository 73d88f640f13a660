"""What XLA sets aside for the loss and its gradient: here and not in the suite, as it differs from version to version."""

import os
import re
import subprocess
import sys

import pytest

MEASURE = """
import tensorflow as tf
from zlpr_tf import zlpr_loss

@tf.function(jit_compile=True)
def both(labels, logits):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_mean(zlpr_loss(labels, logits))
    return loss, tape.gradient(loss, logits)

logits = tf.zeros(({rows}, {classes}))
both(logits if {soft} else logits > 0, logits)
"""
LINEAR = """
import tensorflow as tf
from zlpr_tf import {loss}

@tf.function(jit_compile=True)
def both(labels, inputs, kernel, bias):
    with tf.GradientTape() as tape:
        tape.watch((inputs, kernel, bias))
        value = tf.reduce_mean({loss}(labels, inputs, kernel, bias=bias))
    return value, tape.gradient(value, (inputs, kernel, bias))

labels = tf.zeros((256, 131_072), "bool") if {dense} else tf.zeros((256, 5), "int32")
both(labels, tf.zeros((256, 256)), tf.zeros((256, 131_072)), tf.zeros(131_072))
"""
SET_ASIDE = re.compile(r"^allocation \d+: size (\d+), (?!parameter|constant|thread-local)", re.MULTILINE)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(256, 1000), (96, 9605)])
def test_room_for_half_an_array_of_the_logits_is_enough(rows, classes, soft, tmp_path):
    """Half the size of the logits, beside the gradient, although a branch of the program computes everything again."""
    held = set_aside(MEASURE.format(rows=rows, classes=classes, soft=soft), tmp_path) / (4 * rows * classes)
    assert 1 <= held <= 1.5


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "ids"])
def test_a_linear_layer_sets_aside_no_logits(dense, tmp_path):
    """At most 40 MiB beyond the gradients, where the logits alone would take 128."""
    loss = "linear_zlpr_loss" if dense else "sparse_linear_zlpr_loss"
    gradients = 4 * (256 * 256 + 256 * 131_072 + 131_072)
    assert gradients < set_aside(LINEAR.format(loss=loss, dense=dense), tmp_path) < gradients + 40 * 2**20


def set_aside(program, folder):
    """Bytes that XLA keeps for the function ``both``, beside its arguments."""
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*both.*"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "XLA_FLAGS": flags}, check=True)
    (plan,) = folder.glob("*buffer-assignment.txt")
    return sum(map(int, SET_ASIDE.findall(plan.read_text())))
