"""The bounds that the packages promise. One table; nothing else in the tests may loosen it."""

import ml_dtypes
import numpy as np

SMALLEST = 1e-30
"""Promises hold for values and gradient entries of at least this size; below it they may vanish."""

VALUE_RTOL = {"float16": 5e-7, "bfloat16": 5e-7, "float32": 5e-7, "float64": 1e-13}
"""Half precision computes in and returns float32."""

ONE_LABEL_RTOL = 8e-7
"""Of a divergence in float32 whose row has one label, and nothing else to even out what is rounded."""

GRAD_RTOL = {"float16": 1e-5, "bfloat16": 1e-5, "float32": 1e-5, "float64": 1e-12}
"""Of the magnitude of the parts, before the gradient is rounded to the dtype of the logits."""


def value_error(got, true, dtype):
    """Error of each value, as a fraction of its bound."""
    bound = VALUE_RTOL[dtype] * np.maximum(np.abs(true), SMALLEST)
    bound = np.where(np.abs(true) < SMALLEST, SMALLEST, bound)
    return np.abs(np.asarray(got, np.float64) - true) / bound


def grad_error(got, true, parts, dtype):
    """Error of each entry, as a fraction of its bound. Half a unit in the last place of a half-precision dtype is free."""
    info = ml_dtypes.finfo(dtype)
    half = dtype in ("float16", "bfloat16")
    owed = float(info.eps) / 2 * np.abs(true) + float(info.smallest_subnormal) if half else 0.0
    excess = np.abs(np.asarray(got, np.float64) - true) - owed
    return np.where(excess > 0, excess, excess * 0) / np.where(parts < SMALLEST, SMALLEST, GRAD_RTOL[dtype] * parts)
