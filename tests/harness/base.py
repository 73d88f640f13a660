"""What a framework must show to be judged; the rest is derived from it here."""

from abc import ABC, abstractmethod

import ml_dtypes
import numpy as np


class Backend(ABC):
    name: str
    dtypes = ("float16", "bfloat16", "float32", "float64")
    modes = ("eager",)
    autodiff = True
    reads_values = True
    """Whether values can be read while computing, so that a bad id raises instead of being left out."""

    # --- the framework in its own words -----------------------------------------------------------------------------
    @abstractmethod
    def native(self, values, dtype):
        """A tensor; ``dtype`` is a name such as "bfloat16", "bool" or "uint8"."""

    @abstractmethod
    def numpy(self, tensor):
        """A NumPy array, widened to float64 if floating."""

    @abstractmethod
    def dtype_name(self, tensor): ...

    @abstractmethod
    def losses(self, logits, targets, **options):
        """The package's loss, one value an example, options by their names in the core."""

    @abstractmethod
    def terms(self, logits, targets, **options): ...

    @abstractmethod
    def helper(self, name):
        """A helper such as ``predict``, as the package exports it."""

    def compiled(self, function, mode):
        assert mode == "eager"
        return function

    def gradient(self, function, x):
        """Of a scalar function."""
        raise NotImplementedError

    def jvp(self, function, x, tangent):
        raise NotImplementedError

    def hvp(self, function, x, tangent):
        raise NotImplementedError

    # --- NumPy in, NumPy out ----------------------------------------------------------------------------------------
    def problem(self, logits, targets, dtype="float64", *, target_dtype=None, **options):
        """Arguments as tensors: floating targets in the logits' dtype, options in the dtype that computes."""
        wide = "float64" if dtype == "float64" else "float32"
        targets = np.asarray(targets)
        arguments = {
            "logits": self.native(logits, dtype),
            "targets": self.native(targets, target_dtype or (dtype if targets.dtype.kind == "f" else targets.dtype.name)),
        }
        for name, value in options.items():
            is_array = isinstance(value, (list, np.ndarray))
            arguments[name] = self.native(value, "bool" if name == "where" else wide) if is_array else value
        return arguments

    def loss(self, logits, targets, dtype="float64", *, mode="eager", **options):
        return self.numpy(self.raw_loss(logits, targets, dtype, mode=mode, **options))

    def raw_loss(self, logits, targets, dtype="float64", *, mode="eager", **options):
        arguments, fixed = self._split(self.problem(logits, targets, dtype, **options))
        return self.compiled(lambda tensors: self.losses(**tensors, **fixed), mode)(arguments)

    def grad(self, logits, targets, dtype="float64", *, wrt="logits", mode="eager", **options):
        return self.numpy(self.raw_grad(logits, targets, dtype, wrt=wrt, mode=mode, **options))

    def raw_grad(self, logits, targets, dtype="float64", *, wrt="logits", mode="eager", **options):
        function, x = self._scalar(logits, targets, dtype, wrt, options)
        return self.compiled(lambda at: self.gradient(function, at), mode)(x)

    def directional(self, logits, targets, tangent, dtype="float64", *, wrt="logits", mode="eager", order=1, **options):
        """Forward-mode derivative (order 1) of the summed loss, or Hessian-vector product (order 2)."""
        function, x = self._scalar(logits, targets, dtype, wrt, options)
        product = self.jvp if order == 1 else self.hvp
        v = self.native(tangent, dtype)
        return self.numpy(self.compiled(lambda at: product(function, at, v), mode)(x))

    def _scalar(self, logits, targets, dtype, wrt, options):
        arguments = self.problem(logits, targets, dtype, **options)
        x = arguments.pop(wrt)
        return lambda at: self.total(self.losses(**{**arguments, wrt: at})), x

    def total(self, losses):
        return losses.sum()

    @staticmethod
    def _split(arguments):
        """Tensors apart from Python values, which a compiler takes as constants."""
        fixed = {k: v for k, v in arguments.items() if v is None or isinstance(v, (int, float, str, tuple))}
        return {k: v for k, v in arguments.items() if k not in fixed}, fixed


def as_numpy(values, dtype):
    """NumPy array in a dtype that NumPy may know only by way of ml_dtypes."""
    known = {"bfloat16": ml_dtypes.bfloat16}
    return np.asarray(values).astype(known.get(dtype, dtype))


def widened(array):
    return array if array.dtype.kind in "biu" else array.astype(np.float64)
