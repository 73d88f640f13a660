"""What a framework must show to be judged; the rest is derived from it here."""

from abc import ABC, abstractmethod
from contextlib import contextmanager, nullcontext
from types import ModuleType

import ml_dtypes
import numpy as np

ARRAYS = {
    "zlpr": ("logits", "targets"),
    "zlpr_terms": ("logits", "targets"),
    "sparse_zlpr": ("logits", "indices"),
    "kl_divergence": ("p_logits", "q_logits"),
    "symmetric_kl_divergence": ("p_logits", "q_logits"),
    "zlpr_divergence": ("p_logits", "q_logits"),
    "rdrop_zlpr": ("logits1", "logits2", "targets"),
}
LOGITS = ("logits", "logits1", "logits2", "p_logits", "q_logits")
ADAPTED = {"zlpr": "zlpr_loss", "sparse_zlpr": "sparse_zlpr_loss", "rdrop_zlpr": "rdrop_zlpr_loss"}
"""What the adapters call them."""


class UnavailableError(RuntimeError):
    """The framework is there, and what the backend runs on is not."""


class Backend(ABC):
    name: str
    package: ModuleType
    dtypes = ("float16", "bfloat16", "float32", "float64")
    modes = ("eager",)
    default_mode = "eager"
    autodiff = True
    adapter = True
    """Has the options that only adapters have: label_smoothing and ignore_index."""

    dialect = {}
    """What the package calls an argument of the core, where that is another name."""

    whole = True
    """Has every public function, and not only what makes ``zlpr`` and its halves."""

    converts = True
    """Takes options as lists, and as arrays and numbers of NumPy."""

    reads_ids = True
    """Looks at class ids outside tracing, and names an illegal one. Who waits for an accelerator would read them there."""

    rounds_alike = True
    """Gives integer and bool targets the same bits."""

    tracing_modes = ()
    """The modes in which values cannot be looked at."""

    deaf_modes = ()
    """The modes that the alarms cannot watch."""

    joint_modes = ()
    """The modes in which one program gives values and slopes in the logits, as compiling takes its time."""

    def __init__(self):
        self._programs = {}

    @property
    def hides_ids(self):
        return not self.reads_ids

    @property
    def traces(self):
        return bool(self.tracing_modes)

    @property
    def may_not_read(self):
        return self.traces or self.hides_ids

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
    def call(self, name, arrays, options):
        """The package's function of that name in the core: one value an example, arrays and options as in the core."""

    def function(self, name):
        """The package's function of that name in the core."""
        return getattr(self.package, ADAPTED.get(name, name))

    def helper(self, name):
        """A helper such as ``predict``, as the package exports it."""
        return getattr(self.package, name)

    def arguments(self, name):
        """The arrays that the package's function takes, by the package's names and in its order."""
        return [self.dialect.get(argument, argument) for argument in ARRAYS[name]]

    def word(self, name):
        """What the package calls an argument or a function of the core."""
        return self.dialect.get(name, ADAPTED.get(name, name) if self.adapter else name)

    def own_options(self, name):
        """The options, with their defaults, that the package's function has and that of the core has not."""
        smooth, ignore = {"label_smoothing": 0.0}, {"ignore_index": None}
        return {
            "zlpr": smooth | ignore,
            "zlpr_terms": smooth | ignore,
            "sparse_zlpr": smooth,
            "rdrop_zlpr": smooth | ignore,
        }.get(name, {})

    def alarms(self):
        """A context in which the framework's own tools report every NaN, infinity and overflow by an exception."""
        return nullcontext()

    @contextmanager
    def silent(self):
        """Raises if anything in here sets off the alarms. Programs are compiled anew, as some alarms are traced."""
        kept, self._programs = self._programs, {}
        try:
            with self.alarms():
                yield
        finally:
            self._programs = kept

    def compiled(self, function, mode):
        assert mode == "eager"
        return function

    def covers(self, dtype, mode):
        """Whether to spend time on this combination; another backend judges the same where not."""
        return True

    def spares(self, dtype, mode):
        """Whether to leave this combination to others in tests that are marked so."""
        return False

    def gradient(self, function, x):
        """Of a scalar function."""
        raise NotImplementedError

    def value_and_gradients(self, function, tensors):
        """Of one value an example: the values, and by name the gradients of their sum."""
        raise NotImplementedError

    def jvp(self, function, x, tangent):
        raise NotImplementedError

    def hvp(self, function, x, tangent):
        raise NotImplementedError

    # --- NumPy in, NumPy out ----------------------------------------------------------------------------------------
    def value(self, name, dtype="float64", **arguments):
        """What ``name`` makes of NumPy arguments by their names in the core."""
        return self.numpy(self.native_value(name, dtype, **arguments))

    def native_value(self, name, dtype="float64", *, mode=None, target_dtype=None, **arguments):
        tensors, fixed = _split(self.tensors(dtype, target_dtype, **arguments))
        if self._joint(name, mode):
            return self._program(name, "both", "", mode, fixed)(tensors)[0]
        return self._program(name, "value", "", mode, fixed)(tensors)

    def slope(self, name, wrt, dtype="float64", **arguments):
        """Gradient of the summed values in the argument ``wrt``."""
        return self.numpy(self.native_slope(name, wrt, dtype, **arguments))

    def native_slope(self, name, wrt, dtype="float64", *, mode=None, target_dtype=None, **arguments):
        tensors, fixed = _split(self.tensors(dtype, target_dtype, **arguments))
        if wrt in LOGITS and self._joint(name, mode):
            return self._program(name, "both", "", mode, fixed)(tensors)[1][wrt]
        return self._program(name, "gradient", wrt, mode, fixed)(tensors)

    def along(self, name, product, wrt, tangent, dtype="float64", *, mode=None, target_dtype=None, **arguments):
        """``product`` "jvp": forward-mode derivative of the summed values; "hvp": Hessian-vector product."""
        tensors, fixed = _split(self.tensors(dtype, target_dtype, **arguments))
        return self.numpy(self._program(name, product, wrt, mode, fixed)(tensors, self.native(tangent, dtype)))

    def tensors(self, dtype, target_dtype=None, **arguments):
        """Logits in ``dtype``, floating targets too, options in the dtype that computes."""
        return {name: self._tensor(name, value, dtype, target_dtype) for name, value in arguments.items()}

    def _tensor(self, name, value, dtype, target_dtype):
        if not isinstance(value, (list, np.ndarray)):
            return value
        value = np.asarray(value)
        kinds = {"where": "bool", "indices": value.dtype.name, **dict.fromkeys(LOGITS, dtype)}
        kinds["targets"] = target_dtype or (dtype if value.dtype.kind == "f" else value.dtype.name)
        return self.native(value, kinds.get(name, "float64" if dtype == "float64" else "float32"))

    # --- the same for the loss of dense targets ---------------------------------------------------------------------
    def problem(self, logits, targets, dtype="float64", *, target_dtype=None, **options):
        return self.tensors(dtype, target_dtype, logits=np.asarray(logits), targets=np.asarray(targets), **options)

    def losses(self, logits, targets, **options):
        return self.call("zlpr", (logits, targets), options)

    def terms(self, logits, targets, **options):
        return self.call("zlpr_terms", (logits, targets), options)

    def loss(self, logits, targets, dtype="float64", **options):
        return self.value("zlpr", dtype, logits=np.asarray(logits), targets=np.asarray(targets), **options)

    def grad(self, logits, targets, dtype="float64", *, wrt="logits", **options):
        return self.slope("zlpr", wrt, dtype, logits=np.asarray(logits), targets=np.asarray(targets), **options)

    def directional(self, product, logits, targets, tangent, dtype="float64", *, wrt="logits", **options):
        arguments = {"logits": np.asarray(logits), "targets": np.asarray(targets), **options}
        return self.along("zlpr", product, wrt, tangent, dtype, **arguments)

    def _joint(self, name, mode):
        return name not in ("zlpr_terms", "rdrop_zlpr") and (mode or self.default_mode) in self.joint_modes

    def _program(self, name, kind, wrt, mode, fixed):
        """Kept, so that a compiler meets each combination of shapes and dtypes once."""
        mode = mode or self.default_mode
        key = (name, kind, wrt, mode, tuple(sorted(fixed.items())))
        if key not in self._programs:
            self._programs[key] = self.compiled(self._function(name, kind, wrt, fixed), mode)
        return self._programs[key]

    def _function(self, name, kind, wrt, fixed):
        def value(tensors):
            arguments = {**tensors, **fixed}
            return self.call(name, tuple(arguments.pop(array) for array in ARRAYS[name]), arguments)

        def differentiated(tensors, *tangent):
            return getattr(self, kind)(lambda x: self.total(value({**tensors, wrt: x})), tensors[wrt], *tangent)

        def both(tensors):
            logits = {k: x for k, x in tensors.items() if k in LOGITS}
            return self.value_and_gradients(lambda moved: value({**tensors, **moved}), logits)

        return {"value": value, "both": both}.get(kind, differentiated)

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
