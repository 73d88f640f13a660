"""Array libraries that are not quite what the standard says, and dtypes beyond it."""

import subprocess
import sys
from types import SimpleNamespace

import array_api_compat.numpy
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

import zlpr_core
from zlpr_core import Namespace
from zlpr_core._checks import broadcasts, same_shape
from zlpr_core._namespace import namespace_from

LOGITS, TARGETS = np.asarray([[2.0, -1.0, 0.0]]), np.asarray([[1, 0, 0]])
PROMISED = {*Namespace.__annotations__, *(name for name in vars(Namespace) if not name.startswith("_"))}


class Bare:
    """An array that does not say where it lies, as MLX's."""

    def __init__(self, values):
        self.values = values
        self.shape, self.dtype = values.shape, values.dtype


def lacking(*names):
    library = array_api_compat.numpy
    kept = {name: getattr(library, name) for name in PROMISED - set(names)}
    return namespace_from(SimpleNamespace(**kept, __name__="little"))


FOR_IDS = ("any", "arange", "argmax", "asarray", "concat", "permute_dims", "reshape", "zeros")


def test_the_losses_of_dense_targets_need_little_of_a_library():
    xp = lacking(*FOR_IDS)
    options = {"where": np.asarray([True, True, False]), "weight": 2.0, "threshold": np.asarray([0.5, 0.0, 1.0])}
    for name in ("zlpr", "zlpr_terms", "zlpr_grad", "zlpr_hessian_diag"):
        function = getattr(zlpr_core, name)
        np.testing.assert_array_equal(function(LOGITS, TARGETS, **options, xp=xp), function(LOGITS, TARGETS, **options))
    for name in ("kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"):
        getattr(zlpr_core, name)(LOGITS, -LOGITS, xp=xp)
    zlpr_core.rdrop_zlpr(LOGITS, -LOGITS, TARGETS, xp=xp)
    zlpr_core.predict(LOGITS, at_least_one=True, xp=xp)


@pytest.mark.parametrize("missing", ["arange", "zeros"])
def test_class_ids_say_what_a_library_lacks(missing):
    needed = "Class ids, linear layers, `check_targets` and options as lists"
    text = f"^{needed} need `{missing}`, which the array library little lacks.$"
    for call in (zlpr_core.multi_hot, lambda ids, classes, xp: zlpr_core.sparse_zlpr(LOGITS, ids, xp=xp)):
        with pytest.raises(NotImplementedError, match=text):
            call(np.asarray([[0, -1]]), 3, xp=lacking(missing))


def test_an_array_that_does_not_say_where_it_lies_is_not_read():
    """As on an accelerator: an illegal id makes a NaN."""
    xp = lacking()
    assert xp.device(Bare(LOGITS)) is None
    assert not xp.readable(Bare(TARGETS))


class WithoutDevices:
    """A library that knows no ``device`` and spells ``bool`` as NumPy 1 did, as MLX is."""

    __name__ = "without_devices"

    def __getattr__(self, name):
        if name == "bool":
            raise AttributeError(name)
        return np.bool_ if name == "bool_" else getattr(array_api_compat.numpy, name)

    def arange(self, stop, *, dtype):
        return np.arange(stop, dtype=dtype)

    def zeros(self, shape, *, dtype):
        return np.zeros(shape, dtype)

    def asarray(self, x, *, dtype=None):
        return np.asarray(x, dtype)


def test_a_library_without_devices(monkeypatch):
    """Its arrays do not say where they lie, and its functions refuse ``device=None``."""
    monkeypatch.setattr(zlpr_core._namespace, "device", lambda x: x.where_it_lies)
    xp = namespace_from(WithoutDevices())
    lists, ids = [[0], [1, 0]], np.asarray([[0, -1], [1, 0]])
    logits = np.concatenate([LOGITS, -LOGITS])
    expected = zlpr_core.sparse_zlpr(logits, ids)
    for indices in (lists, ids, scipy.sparse.csr_array(zlpr_core.multi_hot(ids, 3))):
        np.testing.assert_array_equal(zlpr_core.sparse_zlpr(logits, indices, xp=xp), expected)
    assert zlpr_core.multi_hot(ids, 3, xp=xp).dtype == bool
    weight = zlpr_core.zlpr(LOGITS, TARGETS, weight=[1.0, 2.0, 3.0], xp=xp)
    np.testing.assert_array_equal(weight, zlpr_core.zlpr(LOGITS, TARGETS, weight=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize("missing", ["any", "reshape"])
def test_whether_ids_can_be_read_needs_functions_too(missing):
    """The error must not be taken for a refusal to give values away."""
    xp = lacking(missing)
    with pytest.raises(NotImplementedError, match=f"need `{missing}`, which the array library little lacks.$"):
        xp.readable(TARGETS)


def test_an_older_standard_is_refused_in_one_sentence():
    """In a process of its own, as the revision is the library's for good."""
    code = """
import array_api_strict as library, zlpr_core
library.set_array_api_strict_flags(api_version="2023.12")
zlpr_core.zlpr(library.asarray([[2.0]]), library.asarray([[1]]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "TypeError: The array library must take numbers in `where`, as the array API standard says since 2024.12. "
        "Received: array_api_strict of version 2023.12."
    )


def test_sizes_that_are_not_known_yet_fit_any_other():
    """None while tracing, NaN in dask."""
    for unknown in (None, float("nan")):
        assert same_shape((unknown, 5), (unknown, 5))
        assert same_shape((unknown, 5), (3, 5))
        assert not same_shape((unknown, 5), (3, 4))
        assert not same_shape((unknown, 5), (5,))
        assert broadcasts((unknown, 1), (7, 5))
        assert broadcasts((5,), (unknown, 5))
        assert not broadcasts((4,), (unknown, 5))


def test_longdouble_computes_in_float64():
    """And never in float32; where it is float64 under another name it is that."""
    logits, other = LOGITS.astype(np.longdouble), np.asarray([[0.3, 1e-3, -2.0]], np.longdouble)
    for function, arrays in (
        (zlpr_core.zlpr, (logits, TARGETS)),
        (zlpr_core.zlpr, (logits, np.asarray([[0.3, 0.1, 0.9]], np.longdouble))),
        (zlpr_core.kl_divergence, (logits, other)),
        (zlpr_core.zlpr_entropy, (np.asarray([[0.3, 0.1, 0.9]], np.longdouble),)),
        (zlpr_core.probabilities, (logits,)),
        (zlpr_core.smooth_labels, (np.asarray([[0.3, 0.1, 0.9]], np.longdouble), 0.1)),
    ):
        got = function(*arrays)
        assert got.dtype == np.float64
        narrow = [x.astype(np.float64) if getattr(x, "dtype", None) == np.longdouble else x for x in arrays]
        np.testing.assert_allclose(got, function(*narrow), rtol=1e-15)
    assert zlpr_core.zlpr_grad(logits, TARGETS).dtype == np.longdouble


def test_dtypes_that_the_library_does_not_know():
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        with pytest.raises(
            TypeError, match=r"^`logits` must have a real floating dtype. Received: .*float.*\. Convert"
        ):
            zlpr_core.zlpr(LOGITS.astype(dtype), TARGETS)
        with pytest.raises(TypeError, match=r"^`targets` must be bool, integer or real floating. Received dtype: "):
            zlpr_core.zlpr(LOGITS, TARGETS.astype(dtype))
