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
SET_ASIDE = re.compile(r"^allocation \d+: size (\d+), (?!parameter|constant|thread-local)", re.MULTILINE)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(256, 1000), (96, 9605)])
def test_room_for_half_an_array_of_the_logits_is_enough(rows, classes, soft, tmp_path):
    """Half the size of the logits, beside the gradient, although a branch of the program computes everything again."""
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*both.*"
    program = MEASURE.format(rows=rows, classes=classes, soft=soft)
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "XLA_FLAGS": flags}, check=True)
    (plan,) = tmp_path.glob("*buffer-assignment.txt")
    held = sum(map(int, SET_ASIDE.findall(plan.read_text()))) / (4 * rows * classes)
    assert 1 <= held <= 1.5
