"""The last layer of a model and its loss in one, on any backend of Keras."""

from typing import Any

import keras
from keras import ops

from zlpr_core._checks import check_chunk
from zlpr_core._options import Logits

from ._classes import SparseZLPRLoss, ZLPRLoss
from ._keras_internals import mask_of
from ._linear import linear_zlpr_loss, sparse_linear_zlpr_loss
from ._reduction import for_all_replicas, kept_cells, reduced

DENSE = (
    "units",
    "use_bias",
    *(f"{of}_{what}" for what in ("initializer", "regularizer", "constraint") for of in ("kernel", "bias")),
)
LOSS = ("weight", "pos_weight", "threshold", "label_smoothing", "reduction")


@keras.saving.register_keras_serializable(package="zlpr")
class LinearZLPR(keras.Model):
    r"""The last `Dense` layer and ZLPR of its logits, which do not exist in training: for very many classes.

    .. math::
        L = \log\Bigl(1 + \sum_i t_i e^{-(x \cdot k_i + \beta_i)}\Bigr)
          + \log\Bigl(1 + \sum_i (1 - t_i) e^{x \cdot k_i + \beta_i}\Bigr)

    With a `network` it is a model: `compile` it without a loss, `fit(x, labels)`, and `predict` returns logits. As a
    layer of another model it returns logits for features; called with features and labels, it returns the loss of each
    example and adds their mean to the losses of the model.

    Args:
        units: How many classes there are.
        network: A Keras model or layer that makes the features. Without one the inputs are the features.
        sparse: True if labels are class ids, as in `SparseZLPRLoss`.
        use_bias: As in `keras.layers.Dense`, as are the six arguments that follow it.
        kernel_initializer: As in `keras.layers.Dense`.
        bias_initializer: As in `keras.layers.Dense`.
        kernel_regularizer: As in `keras.layers.Dense`.
        bias_regularizer: As in `keras.layers.Dense`.
        kernel_constraint: As in `keras.layers.Dense`.
        bias_constraint: As in `keras.layers.Dense`.
        weight: As in `ZLPRLoss`, as are the options that follow it but for the last.
        pos_weight: As in `ZLPRLoss`.
        threshold: As in `ZLPRLoss`.
        label_smoothing: As in `ZLPRLoss`.
        ignore_index: As in `ZLPRLoss`; not for class ids.
        pad: As in `SparseZLPRLoss`.
        reduction: As in `ZLPRLoss`.
        chunk: As in `linear_zlpr_loss`.
        **kwargs: As for every `keras.Model`, such as `name` and `dtype`.

    Call:
        Inputs, and optionally labels: of shape `(batch, ..., units)`, or ids of shape `(batch, ..., slots)`. In
        training a compiled model that is called without labels returns the features, of which `fit` takes the loss.
        Metrics see logits, so `fit` reports them for the validation alone.

    Raises:
        TypeError: As in `ZLPRLoss`.
        ValueError: As in `ZLPRLoss` and `keras.layers.Dense`; a `chunk` below 1; a `loss` in `compile`.

    Reference:
        Su et al., "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955.

    Example:
        >>> model = LinearZLPR(10_000, keras.layers.Dense(8, activation="relu"), sparse=True)
        >>> model.compile("adam")
        >>> history = model.fit(ops.ones((4, 16)), ops.array([[3, 9_999], [0, -1], [-1, -1], [7, 8]]), verbose=0)
        >>> model.predict(ops.ones((4, 16)), verbose=0).shape
        (4, 10000)
    """

    def __init__(
        self,
        units: int,
        network: Any = None,
        *,
        sparse: bool = False,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        weight: Any = None,
        pos_weight: Any = None,
        threshold: Any = 0.0,
        label_smoothing: float | None = 0.0,
        ignore_index: float | None = None,
        pad: int | None = -1,
        reduction: str | None = "sum_over_batch_size",
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # it would round soft labels to half precision
        self.network, self.sparse, self.chunk = network, sparse, None if chunk is None else check_chunk(chunk)
        self.dense = keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            dtype=self.dtype_policy,
            name="dense",
        )
        options: Any = {"weight": weight, "pos_weight": pos_weight, "threshold": threshold}
        options |= {"label_smoothing": label_smoothing, "reduction": reduction}
        options["dtype"] = "float64" if self.compute_dtype == "float64" else "float32"
        self.criterion: Any = (
            SparseZLPRLoss(pad=pad, **options) if sparse else ZLPRLoss(ignore_index=ignore_index, **options)
        )
        self._sees_features = False

    @property
    def kernel(self) -> Any:
        """The weights, of shape `(features, units)`."""
        return self.dense.kernel

    @property
    def bias(self) -> Any:
        """None without one."""
        return self.dense.bias

    def build(self, input_shape: Any) -> None:
        """Build the network and the layer."""
        if self.network is not None:
            input_shape = _built(self.network, input_shape)
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs: Any, labels: Any = None, training: bool | None = None) -> Any:
        """Logits; with labels the loss of each example; in a training step of `fit` the features."""
        features = inputs if self.network is None else self.network(inputs, training=training)
        if labels is None:
            return features if training and self.compiled else self.dense(features)
        losses, where = self._loss_of_each(labels, features)
        self.add_loss(for_all_replicas(reduced(losses, where, self.criterion, None)))
        return losses

    def _loss_of_each(self, labels: Any, features: Any) -> tuple[Any, Any]:
        """One value an example, and which cells count."""
        like, dtype = self.criterion, self.dense.compute_dtype
        x, kernel = (ops.cast(part, dtype) for part in (features, self.kernel))
        logits: Any = Logits((*x.shape[:-1], self.dense.units), dtype, None)
        where = kept_cells(like, labels, logits, mask_of(features))
        options: Any = {"bias": None if self.bias is None else ops.cast(self.bias, dtype), "chunk": self.chunk}
        options |= {name: getattr(like, name) for name in LOSS[:-1]} | {"where": where}
        if self.sparse:
            return sparse_linear_zlpr_loss(labels, x, kernel, pad=like.pad, **options), where
        return linear_zlpr_loss(labels, x, kernel, ignore_index=like.ignore_index, **options), where

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """In training from the features, else from the logits; and what layers have added."""
        if self.loss is not None:
            msg = f"`LinearZLPR` has its loss: compile it without one. Received: loss={self.loss!r:.60}."
            raise ValueError(msg)
        self._sees_features = training
        if training:
            losses, where = self._loss_of_each(y, y_pred)
            total = reduced(losses, where, self.criterion, sample_weight)
        else:
            total = self.criterion(y, y_pred, sample_weight)
        # Keras's own adds up the losses of layers, each shared out among the replicas of a strategy, and needs one.
        return total + super().compute_loss(x, y, y_pred, sample_weight, training) if self.losses else total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """In training the loss alone: there are no logits for the others."""
        if self._sees_features:
            return self.get_metrics_result()
        found: dict[str, Any] = super().compute_metrics(x, y, y_pred, sample_weight)
        return found

    def get_metrics_result(self) -> dict[str, Any]:
        """After a training step the loss alone, which `fit` asks for before the others may exist."""
        if self._sees_features:
            return {metric.name: metric.result() for metric in self.metrics if metric.name == "loss"}
        found: dict[str, Any] = super().get_metrics_result()
        return found

    def get_config(self) -> dict[str, Any]:
        """As those of `keras.layers.Dense` and of the loss, and the network."""
        dense, loss = self.dense.get_config(), self.criterion.get_config()
        own = {"network": keras.saving.serialize_keras_object(self.network), "sparse": self.sparse, "chunk": self.chunk}
        kind = "pad" if self.sparse else "ignore_index"
        options = {name: loss[name] for name in (*LOSS, kind)}
        return {**super().get_config(), **own, **{name: dense[name] for name in DENSE}, **options}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "LinearZLPR":
        """The inverse of `get_config`."""
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return cls(**{**config, "network": network})


def _built(network: Any, input_shape: Any) -> Any:
    """Build it if it is not. The shape of its features, which a subclassed model tells, and builds, by a call alone."""
    try:
        features = network.compute_output_shape(input_shape)
    except NotImplementedError:
        return network(keras.tree.map_shape_structure(keras.KerasTensor, input_shape)).shape
    if not network.built:
        network.build(input_shape)
    return features
