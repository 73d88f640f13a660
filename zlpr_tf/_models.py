"""R-Drop as a Keras model, on any backend of Keras."""

from typing import Any

import keras
from keras import ops

from zlpr_core._checks import check_positive
from zlpr_core._divergences import JEFFREYS

from ._classes import ZLPRLoss
from ._divergence_derivative import divergence
from ._keras_internals import mask_of
from ._reduction import kept_cells, reduced


@keras.saving.register_keras_serializable(package="zlpr")
class RDropZLPR(keras.Model):
    r"""A network with dropout, trained by R-Drop: two passes through it that must agree.

    .. math::
        \tfrac12 \bigl[L(s, t) + L(u, t)\bigr] + \tfrac{\alpha}{4}\, \mathrm{KL}_\mathrm{sym}(s, u)

    where :math:`s` and :math:`u` are the logits of the two passes. `fit` trains on that sum; `evaluate` and the
    validation in `fit` report the loss alone, and `predict` makes one pass without dropout. `network` is trained in
    place and can be used by itself afterwards.

    Args:
        network: A Keras model or layer with dropout that ends in raw logits.
        alpha: :math:`\alpha`, non-negative: what the agreement is worth.
        scale: As in `kl_divergence`.
        **kwargs: As for every `keras.Model`, such as `name`.

    Call:
        What `network` takes. `compile` it with `ZLPRLoss()`, or another loss of logits. The divergence takes `axis`,
        `threshold` and `ignore_index` from that loss; `sample_weight`, masks and the reduction concern it as they do
        the loss.

    Raises:
        ValueError: A negative `alpha`, a `scale` that is not positive.

    Reference:
        Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, arXiv:2106.14448.

    Example:
        >>> network = keras.Sequential([keras.layers.Dropout(0.2), keras.layers.Dense(3)])
        >>> model = RDropZLPR(network, alpha=4.0)
        >>> model.compile("adam", loss=ZLPRLoss())
        >>> history = model.fit(ops.ones((8, 4)), ops.ones((8, 3)), verbose=0)
        >>> model.predict(ops.ones((8, 4)), verbose=0).shape
        (8, 3)
    """

    def __init__(self, network: Any, alpha: float | None = 4.0, scale: float | None = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        alpha, scale = 4.0 if alpha is None else alpha, 1.0 if scale is None else scale
        check_positive("alpha", alpha, zero=True)
        check_positive("scale", scale)
        self.network, self.alpha, self.scale = network, float(alpha), float(scale)

    def build(self, input_shape: Any) -> None:
        """Build the network."""
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """One pass."""
        return self.network(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss; in training that of both passes, and their divergence."""
        first = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return first
        repeated = self(x, training=True)
        second = super().compute_loss(x=x, y=y, y_pred=repeated, sample_weight=sample_weight, training=training)
        return (first + second) / 2 + self._divergence(y, y_pred, repeated, sample_weight)

    def _divergence(self, y: Any, first: Any, second: Any, sample_weight: Any) -> Any:
        """The last term of `rdrop_zlpr_loss`."""
        like = self._one_loss()
        s, u = (ops.convert_to_tensor(logits, dtype=like.dtype) for logits in (first, second))
        where = kept_cells(like, y, s, mask_of(first))
        axis, threshold = getattr(like, "axis", None), getattr(like, "threshold", None)
        jeffreys = divergence(JEFFREYS, s, u, axis, where, self.scale, threshold)
        return reduced(self.alpha / 4 * jeffreys, where, like, sample_weight)

    def _one_loss(self) -> keras.losses.Loss:
        losses = keras.tree.flatten(self.loss)
        if len(losses) != 1:
            msg = f"`RDropZLPR` must have one loss, for a network with one output. Received: {len(losses)} losses."
            raise ValueError(msg)
        return losses[0] if isinstance(losses[0], keras.losses.Loss) else ZLPRLoss()

    def get_config(self) -> dict[str, Any]:
        """The network and the two numbers."""
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "alpha": self.alpha, "scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RDropZLPR":
        """The inverse of `get_config`."""
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return cls(**{**config, "network": network})
