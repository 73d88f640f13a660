"""A linear layer and its loss on TensorFlow, a chunk of the classes at a time, in two sweeps.

The first sweep sums each chunk and merges the sums; the second computes the logits anew and turns them into gradients.
Both are loops of a graph, which an eager call has made for it. Any other derivative is TensorFlow's own of all logits.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from zlpr_core._indices import Ids, part_of_ids
from zlpr_core._losses import slopes
from zlpr_core._namespace import compute_dtype
from zlpr_core._options import Options
from zlpr_core._parts import merge
from zlpr_core._reduce import ShiftedSum, log_sum, spread_nan, sum_exp
from zlpr_core._targets import prepare_targets
from zlpr_core._terms import Halves, halves_of, is_movable

from ._derivative import loss
from ._namespace import xp
from ._tensorflow_internals import KNOWS_XLA, is_compiled_by_xla, needs_only_gradients

CELLS = 1 << 19
"""Logits in a chunk unless told."""
ROWS = 256
"""How many there are if that is not known while tracing."""
LENGTH = 128
"""A chunk is a multiple of it where it can, because ``xp.sum`` adds up so many; unless told it is no less."""


class Cut(NamedTuple):
    """How the classes are cut: ``parts`` chunks of one size.

    What is left over is the first of them. It has the last classes, and is filled up with classes that another chunk
    has, which are masked. That other chunk is later, and writes over the gradient of 0 that they get here.
    """

    classes: int
    parts: int
    size: int

    @classmethod
    def of(cls, rows: list[int | None], classes: int, chunk: int | None) -> "Cut":
        """By the number of classes asked for, else by that of logits.

        For numbers of rows up to the same power of 2 it is the same: an eager loop over batches of many sizes would
        trace a graph for each.
        """
        known = prod([ROWS if size is None else size for size in rows])
        rounded = 1 << max(known - 1, 0).bit_length()
        most = min(classes, max(LENGTH, CELLS // rounded) if chunk is None else chunk)
        parts = -(-classes // most)
        even = -(-classes // parts)
        return cls(classes, parts, min(most, -(-even // LENGTH) * LENGTH))

    def first(self, number: Any) -> Any:
        """The first class of a chunk."""
        return tf.where(number == 0, self.classes - self.size, (number - 1) * self.size)

    def own(self, number: Any) -> Any:
        """bool, the classes that no other chunk has; None if that are all."""
        filling = self.parts * self.size - self.classes
        return None if filling == 0 else (tf.range(self.size) >= filling) | (number > 0)


class Layer(NamedTuple):
    """A linear layer, and what its logits are compared with."""

    inputs: Any
    kernel: Any
    bias: Any
    cut: Cut
    options: Options
    targets: Any = None
    ids: Ids | None = None
    label_smoothing: float | None = 0.0
    ignore_index: float | None = None

    @classmethod
    def of(cls, *, inputs: Any, kernel: Any, bias: Any, chunk: int | None, options: Options, **named: Any) -> "Layer":
        """Cut into chunks. Rows that turn out to be too few or too many raise, where they would be broadcast."""
        classes, rows = kernel.shape[1], ops.shape(inputs)[:-1]
        if named.get("targets") is not None:
            named["targets"] = _of_classes(_of_rows(named["targets"], rows), classes)
        else:
            ids, unused, illegal = named["ids"]
            named["ids"] = Ids(_of_rows(ids, rows), _of_rows(unused, rows), illegal)
        read = Options._make([_of_classes(option, classes) for option in options])
        layer = cls(inputs, kernel, bias, Cut.of(list(inputs.shape[:-1]), classes, chunk), read, **named)
        # Of tensors alone TensorFlow tells which tape watches them; each read of a variable is a tensor of its own.
        return cls._make(tf.nest.map_structure(lambda x: tf.convert_to_tensor(x) if tf.is_tensor(x) else x, layer))

    @property
    def dtype(self) -> str:
        """Which one computes."""
        dtypes = [compute_dtype(part.dtype, xp=xp) for part in (self.inputs, self.kernel)]
        return "float64" if "float64" in dtypes else "float32"

    @property
    def axis(self) -> tuple[int, ...]:
        """That of the classes."""
        return (len(self.inputs.shape) - 1,)

    @property
    def rows(self) -> Any:
        """The inputs as a matrix, in the dtype that computes, in which halves are multiplied exactly."""
        return tf.cast(tf.reshape(self.inputs, (-1, ops.shape(self.kernel)[0])), self.dtype)


def _of_rows(cells: Any, rows: Sequence[Any]) -> Any:
    """``cells``; raises if it turns out that there are not as many rows as of inputs."""
    if None not in cells.shape[:-1] and all(isinstance(size, int) for size in rows):
        return cells
    words = "Labels or ids must have one row for each of `inputs`."
    check = tf.debugging.assert_equal(tf.shape(cells)[:-1], tf.stack(rows), words)  # XLA leaves it out, and refuses to
    with tf.control_dependencies([] if check is None else [check]):  # reshape; else either might be the first to raise
        return tf.reshape(cells, (*rows, ops.shape(cells)[-1]))


def _of_classes(cells: Any, classes: int) -> Any:
    """``cells``; of a size that is unknown while tracing, one a class."""
    if not tf.is_tensor(cells) or cells.shape.rank == 0 or cells.shape[-1] is not None:
        return cells
    return tf.broadcast_to(cells, (*ops.shape(cells)[:-1], classes))


def losses(layer: Layer) -> Any:
    """One value an example."""
    if layer.cut.parts == 1 or not KNOWS_XLA:
        return _all_at_once(layer)
    if not tf.executing_eagerly():
        return _by_rule(layer, derive_others=True)
    own, others, _ = _split(layer)
    if needs_only_gradients(own, others) and not tf.config.functions_run_eagerly():
        ids = {id(part) for part in tf.nest.flatten(layer.ids)}
        kinds = [(x.dtype, x.shape.rank, None if id(x) in ids else tuple(x.shape[-1:])) for x in (*own, *others)]
        return _traced(tuple(kinds))(layer)
    return _all_at_once(layer)


@cache
def _traced(kinds: tuple[Any, ...]) -> Any:
    """A graph for other numbers of rows and slots too: one function of all ``kinds`` would forget the others' sizes."""
    return tf.function(partial(_by_rule, derive_others=False), reduce_retracing=True)


def _all_at_once(layer: Layer) -> Any:
    """By the loss of the logits."""
    logits, targets, options = _compared(layer, layer.kernel, layer.bias, layer.options, 0, layer.cut.classes)
    return loss(logits, targets, layer.axis, options)


def _split(layer: Layer) -> tuple[list[Any], list[Any], Callable[..., Layer]]:
    """The layer's own tensors, all others, and what makes of both a layer again."""
    leaves = tf.nest.flatten(layer)
    tensors = [leaf for leaf in leaves if tf.is_tensor(leaf)]
    own = 2 if layer.bias is None else 3

    def together(*given: Any) -> Layer:
        rest = iter(given)
        again: Layer = tf.nest.pack_sequence_as(layer, [next(rest) if tf.is_tensor(x) else x for x in leaves])
        return again

    return tensors[:own], tensors[own:], together


def _by_rule(layer: Layer, *, derive_others: bool) -> Any:
    """With the derivatives in the layer's own tensors by chunks, and if asked for those in targets and options."""
    own, others, together = _split(layer)

    @tf.custom_gradient
    def values(*tensors: Any) -> Any:
        known = together(*tensors)
        sums = _sums(known)
        total = sum(log_sum(half, axis=known.axis, xp=xp) for half in sums)

        def backward(upstream: Any) -> list[Any]:
            in_own = _twice_differentiable(known, sums, upstream, spread_nan(upstream, total, xp=xp))
            if not derive_others:
                return [*in_own, *[None] * len(others)]
            return [*in_own, *_plain_gradients(known, tensors[len(own) :], upstream)]

        return spread_nan(total, total, xp=xp), backward

    return values(*own, *others)


def _twice_differentiable(layer: Layer, sums: Halves, upstream: Any, each: Any) -> list[Any]:
    """The gradients in the layer's own tensors, whose derivatives come from those of all logits."""
    own, others, together = _split(layer)

    @tf.custom_gradient
    def first_order(upstream: Any, *tensors: Any) -> Any:
        def backward(*upstreams: Any) -> list[Any]:
            plain = _plain_gradients(together(*tensors), tensors[: len(own)], upstream)
            return _partial_gradients(plain, [upstream, *tensors], list(upstreams), [upstream, *tensors])

        return _gradients(layer, sums, each), backward

    found: list[Any] = first_order(upstream, *own, *others)
    return found


def _plain_gradients(layer: Layer, wrt: Sequence[Any], upstream: Any) -> list[Any]:
    """By all logits."""
    own, others, _ = _split(layer)
    return _partial_gradients(_all_at_once(layer), wrt, upstream, [*own, *others]) if wrt else []


def _partial_gradients(of: Any, wrt: Sequence[Any], upstream: Any, given: Sequence[Any]) -> list[Any]:
    """None for what has no derivative. Of what is ``given`` the graph is not followed to what it was computed of."""
    floating = [x for x in wrt if x.dtype.is_floating]
    found = iter(tf.gradients(of, floating, upstream, stop_gradients=list(given)))
    return [next(found) if x.dtype.is_floating else None for x in wrt]


def _compared(layer: Layer, kernel: Any, bias: Any, options: Options, first: Any, size: int) -> tuple[Any, Any, Any]:
    """The logits of some classes, their targets, and their options, which are those of these classes already."""
    product = tf.matmul(layer.rows, tf.cast(kernel, layer.dtype))
    logits = tf.reshape(product, (*ops.shape(layer.inputs)[:-1], size))
    if bias is not None:
        logits = logits + tf.cast(bias, logits.dtype)
    targets = _some(layer.targets, layer, first, size) if layer.ids is None else _marked(layer.ids, first, size)
    prepared = {"label_smoothing": layer.label_smoothing, "ignore_index": layer.ignore_index}
    targets, where = prepare_targets(targets, options.where, logits, **prepared, xp=xp)
    return logits, targets, options._replace(where=where)


def _marked(ids: Ids, first: Any, size: int) -> Any:
    return part_of_ids(ids, tf.cast(first, ids.ids.dtype), size, xp=xp)


def _some(array: Any, layer: Layer, first: Any, size: int) -> Any:
    """Of some classes, which are on the last axis; what is the same for all classes stays."""
    if not tf.is_tensor(array) or array.shape[-1:] != (layer.cut.classes,) or size == layer.cut.classes:
        return array
    *others, _ = ops.shape(array)
    return tf.slice(array, (*[0] * len(others), first), (*others, size))


class _Chunk(NamedTuple):
    kernel: Any
    halves: Halves
    movable: Any


def _chunk(layer: Layer, number: Any) -> _Chunk:
    first, own, size = layer.cut.first(number), layer.cut.own(number), layer.cut.size
    kernel, bias, *options = (_some(x, layer, first, size) for x in (layer.kernel, layer.bias, *layer.options))
    logits, targets, read = _compared(layer, kernel, bias, Options(*options), first, size)
    if own is not None:
        read = read._replace(where=own if read.where is None else read.where & own)
    return _Chunk(kernel, halves_of(logits, targets, read, xp=xp), is_movable(logits, read.where, xp=xp))


def _sums(layer: Layer) -> Halves:
    """The first sweep."""
    rows, parts = ops.shape(layer.inputs)[:-1], layer.cut.parts

    def add(number: Any, found: Any) -> tuple[Any, Any]:
        sums = [sum_exp(half, axis=layer.axis, xp=xp) for half in _chunk(layer, number).halves]
        return number + 1, _written(found, tf.stack([part for half in sums for part in half]), number)

    columns = tf.unstack(_loop(add, parts, tf.zeros((4, *rows, parts), layer.dtype))[0])
    halves = ShiftedSum(*columns[:2]), ShiftedSum(*columns[2:])
    return Halves(*(merge(half, axis=layer.axis, xp=xp) for half in halves))


def _gradients(layer: Layer, sums: Halves, each: Any) -> list[Any]:
    """The second sweep: in the inputs, the kernel, and the bias if there is one."""
    inputs, own = layer.rows, [x for x in (layer.kernel, layer.bias) if x is not None]

    def add(number: Any, in_inputs: Any, *in_own: Any) -> tuple[Any, ...]:
        kernel, halves, movable = _chunk(layer, number)
        positive, negative = slopes(halves, sums, movable, xp=xp)
        cells = tf.reshape((positive + negative) * each[..., None], (-1, layer.cut.size))
        new = tf.matmul(inputs, cells, transpose_a=True), xp.sum(cells, axis=(0,), keepdims=False)
        first = layer.cut.first(number)
        written = [_written(done, part, first) for done, part in zip(in_own, new, strict=False)]
        return number + 1, in_inputs + tf.matmul(cells, tf.cast(kernel, cells.dtype), transpose_b=True), *written

    # Zeros would be a constant of the graph, which stays, and is copied to be written to.
    empty = [tf.raw_ops.Empty(shape=x.shape, dtype=x.dtype, init=True) for x in own]
    in_inputs, *in_own = _loop(add, layer.cut.parts, tf.zeros_like(inputs), *empty)
    return [tf.cast(tf.reshape(in_inputs, ops.shape(layer.inputs)), layer.inputs.dtype), *in_own]


def _written(done: Any, part: Any, first: Any) -> Any:
    """``done`` with ``part`` from class ``first`` on, in its place: that array is as large as the kernel."""
    begin = [*[0] * (len(part.shape) - 1), first]
    value = tf.cast(part, done.dtype)
    if is_compiled_by_xla():
        return ops.slice_update(done, begin, value)
    *others, classes = ops.shape(part)
    end = [*others, first + classes]
    strides = [1] * len(begin)
    return tf.raw_ops.TensorStridedSliceUpdate(input=done, begin=begin, end=end, strides=strides, value=value)


def _loop(body: Any, parts: int, *start: Any) -> list[Any]:
    """Of the numbers of chunks, one after another: side by side each would have its own arrays."""
    limits = {"maximum_iterations": parts, "parallel_iterations": 1}
    found: list[Any] = tf.while_loop(lambda number, *_: number < parts, body, (tf.constant(0), *start), **limits)
    return found[1:]
