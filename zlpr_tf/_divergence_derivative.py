"""The divergences in a graph of TensorFlow, with their gradients in both logit vectors in closed form.

Left to itself, TensorFlow keeps dozens of arrays of the logits' size for the gradient.
"""

from typing import Any

from keras import backend, ops

from zlpr_core._checks import class_axes
from zlpr_core._divergences import REGRET, Divergence
from zlpr_core._options import Options
from zlpr_core._pairs import negated, read_pair
from zlpr_core._typing import Axis

from ._namespace import is_in_graph, xp

if backend.backend() == "tensorflow":
    import tensorflow as tf

    from ._derivative import in_rows
    from ._regret import regret
    from ._tensorflow_internals import is_compiled_by_xla, needs_only_gradients


def divergence(
    kind: Divergence,
    p: Any,
    q: Any,
    axis: Axis,
    where: Any,
    scale: Any,
    threshold: Any = 0.0,
    names: tuple[str, str] = ("p_logits", "q_logits"),
) -> Any:
    """One value an example."""

    def pair(s: Any, u: Any) -> Any:
        return read_pair(s, u, axis, Options(where, threshold=threshold), scale, names, xp=xp)

    is_learned = any(hasattr(option, "dtype") for option in (scale, threshold))  # the rule has none for these
    if is_learned or not is_in_graph():
        return kind.value(pair(p, q), xp=xp)

    if kind is REGRET and where is None and is_compiled_by_xla() and needs_only_gradients([p, q], []):
        (p, q), batch = in_rows(class_axes(p, axis, xp=xp), p, q)
        return ops.reshape(regret(p, q, lambda s, u: read_pair(s, u, -1, Options(), 1.0, names, xp=xp)), batch)

    @tf.custom_gradient
    def values(s: Any, u: Any) -> Any:
        read = pair(s, u)
        # What the gradients take of the negated pair, the value takes of it too: what XLA shares it stores, but here
        # (TensorFlow 2.21 on a CPU) that takes less time than long loops with exponentials in them.
        divergences = kind.value(read if kind is REGRET else negated(read), xp=xp)

        def backward(upstream: Any) -> tuple[Any, Any]:
            each, known = upstream, divergences
            for a in sorted(read.axes):
                each, known = ops.expand_dims(each, a), ops.expand_dims(known, a)
            in_p, in_q = kind.gradients(pair(s, u), known, xp=xp)
            return ops.cast(in_p * each, s.dtype), ops.cast(in_q * each, u.dtype)

        return divergences, backward

    return values(p, q)
