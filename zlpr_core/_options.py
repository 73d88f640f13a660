"""The options that change the terms of a loss: one type for every package, and its checks."""

from numbers import Real
from typing import Any, NamedTuple

from ._checks import broadcasts, is_kind, name
from ._namespace import compute_dtype
from ._typing import Array, Extended

_REAL = ("bool", "integral", "real floating")


class Options(NamedTuple):
    """Each is absent, a number, or an array that broadcasts to the logits; ``where`` is bool."""

    where: Any = None
    weight: Any = None
    pos_weight: Any = None
    threshold: Any = 0.0

    @classmethod
    def of(
        cls, logits: Array, where: Any, weight: Any, pos_weight: Any, threshold: Any, /, *, xp: Extended
    ) -> "Options":
        """What a user passed, converted and checked: None is the default, numbers and lists may come from NumPy.

        The shape and dtype of ``logits`` are enough; values are not looked at.
        """
        if where is None and weight is None and pos_weight is None and is_zero(threshold):
            return DEFAULT
        return cls(
            _read("where", where, logits, xp=xp),
            _read("weight", weight, logits, xp=xp),
            _read("pos_weight", pos_weight, logits, xp=xp),
            0.0 if threshold is None else _read("threshold", threshold, logits, xp=xp),
        )

    def by_name(self) -> dict[str, Any]:
        """The options by name, to pass on. ``_asdict`` would do, but PyTorch 2.6 does not compile it."""
        return {
            "where": self.where,
            "weight": self.weight,
            "pos_weight": self.pos_weight,
            "threshold": self.threshold,
        }

    @property
    def are_default(self) -> bool:
        """True if none of them changes anything."""
        if self is DEFAULT:  # nearly every call
            return True
        return self.where is None and self.weight is None and self.pos_weight is None and is_zero(self.threshold)

    def of_classes(self, first: int, last: int, classes: int) -> "Options":
        """Those of some of the ``classes``, which are on the last axis. An option may be the same for all of them."""
        if self.are_default:
            return self
        return Options._make([_part(option, first, last, classes) for option in self])


DEFAULT = Options()
"""No option given."""


class Logits(NamedTuple):
    """What the checks and options need to know of logits that do not exist."""

    shape: tuple[Any, ...]
    dtype: Any
    device: Any


def _part(option: Any, first: int, last: int, classes: int) -> Any:
    if option is None or is_number(option) or tuple(option.shape)[-1:] != (classes,):
        return option
    return option[..., first:last]


def is_number(value: Any) -> bool:
    """True for Python's numbers; ``Options.of`` makes these of NumPy's."""
    return isinstance(value, (int, float))


def is_zero(threshold: Any) -> bool:
    """True for a threshold that is absent or the number 0."""
    return threshold is None or (is_number(threshold) and threshold == 0)


def _read(argument: str, option: Any, logits: Array, *, xp: Extended) -> Any:
    if option is None:
        return None
    if argument != "where" and isinstance(option, Real):
        return float(option)
    kinds = "bool" if argument == "where" else _REAL
    array = option if _has_kind(option, kinds, xp=xp) else _converted(argument, option, logits, xp=xp)
    if not _has_kind(array, kinds, xp=xp):
        raise TypeError(_wrong_kind(argument, f"{type(option).__name__} of dtype {array.dtype}", xp=xp))
    if not broadcasts(tuple(array.shape), tuple(logits.shape)):
        msg = (
            f"{name(argument, xp)} must broadcast to the shape of {name('logits', xp)}. Received: "
            f"{tuple(array.shape)} for {tuple(logits.shape)}."
        )
        raise ValueError(msg)
    return xp.lift(array, len(logits.shape))


def _has_kind(option: Any, kinds: Any, *, xp: Extended) -> bool:
    return hasattr(option, "dtype") and hasattr(option, "shape") and is_kind(option.dtype, kinds, xp=xp)


def _converted(argument: str, option: Any, logits: Array, *, xp: Extended) -> Any:
    """An array where the library's own ``asarray`` makes one; a list of numbers keeps the digits of the logits."""
    listed = argument != "where" and not hasattr(option, "dtype")
    dtype = compute_dtype(logits.dtype, xp=xp) if listed else None
    try:
        return xp.asarray(option, dtype=dtype, device=xp.device(logits))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(_wrong_kind(argument, type(option).__name__, xp=xp)) from error


def _wrong_kind(argument: str, came: str, *, xp: Extended) -> str:
    expected = "bool" if argument == "where" else "real"
    return f"{name(argument, xp)} must be a {expected} array, of the library of the logits. Received: {came}."
