"""What a framework must show to be judged; the rest is derived from it here."""

from abc import ABC, abstractmethod

import ml_dtypes
import numpy as np


class Backend(ABC):
    name: str
    dtypes = ("float16", "bfloat16", "float32", "float64")
    modes = ("eager",)
    default_mode = "eager"
    autodiff = True
    adapter = True
    """Has the options that only adapters have: label_smoothing and ignore_index."""

    def __init__(self):
        self._programs = {}

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

    def covers(self, dtype, mode):
        """Whether to spend time on this combination; every dtype and every mode is in one at least."""
        return True

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
            "targets": self.native(
                targets, target_dtype or (dtype if targets.dtype.kind == "f" else targets.dtype.name)
            ),
        }
        for name, value in options.items():
            is_array = isinstance(value, (list, np.ndarray))
            arguments[name] = self.native(value, "bool" if name == "where" else wide) if is_array else value
        return arguments

    def loss(self, logits, targets, dtype="float64", **options):
        return self.numpy(self.raw_loss(logits, targets, dtype, **options))

    def raw_loss(self, logits, targets, dtype="float64", *, mode=None, **options):
        tensors, fixed = _split(self.problem(logits, targets, dtype, **options))
        return self._program("loss", "", mode, fixed)(tensors)

    def grad(self, logits, targets, dtype="float64", **options):
        return self.numpy(self.raw_grad(logits, targets, dtype, **options))

    def raw_grad(self, logits, targets, dtype="float64", *, wrt="logits", mode=None, **options):
        tensors, fixed = _split(self.problem(logits, targets, dtype, **options))
        return self._program("gradient", wrt, mode, fixed)(tensors)

    def directional(self, product, logits, targets, tangent, dtype="float64", *, wrt="logits", mode=None, **options):
        """``product`` "jvp": forward-mode derivative of the summed loss; "hvp": Hessian-vector product."""
        tensors, fixed = _split(self.problem(logits, targets, dtype, **options))
        return self.numpy(self._program(product, wrt, mode, fixed)(tensors, self.native(tangent, dtype)))

    def _program(self, kind, wrt, mode, fixed):
        """Kept, so that a compiler meets each combination of shapes and dtypes once."""
        mode = mode or self.default_mode
        key = (kind, wrt, mode, tuple(sorted(fixed.items())))
        if key not in self._programs:
            self._programs[key] = self.compiled(self._function(kind, wrt, fixed), mode)
        return self._programs[key]

    def _function(self, kind, wrt, fixed):
        if kind == "loss":
            return lambda tensors: self.losses(**tensors, **fixed)

        def differentiated(tensors, *tangent):
            def total(x):
                return self.total(self.losses(**{**tensors, wrt: x}, **fixed))

            return getattr(self, kind)(total, tensors[wrt], *tangent)

        return differentiated

    def total(self, losses):
        return losses.sum()


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
