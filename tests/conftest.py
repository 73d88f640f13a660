"""``--backend`` says what to test. A test with an argument ``backend``, ``dtype`` or ``mode`` runs for each of them.

The terminal report ends with the worst error of each backend and dtype, beside the bound that it was held to.
"""

from collections import defaultdict

import harness
import numpy as np
import pytest
from harness.base import UnavailableError
from registry import BACKENDS, folders_of

_worst = defaultdict(float)
_loaded = {}


def pytest_addoption(parser):
    parser.addoption("--backend", default="numpy,strict", help=f"comma-separated: {', '.join(BACKENDS)}")


def _names(config):
    return config.getoption("--backend").split(",")


def _backend(name):
    if name not in _loaded:
        _loaded[name] = harness.load(name)
    return _loaded[name]


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "needs(attribute): only for backends where this attribute of the harness is true"
    )
    config.addinivalue_line("markers", "alarmed: only in the modes that the alarms of the backend can watch")
    config.addinivalue_line(
        "markers", "spare: not where compiling takes long and another backend or dtype shows the same"
    )
    for name in _names(config):
        try:
            _backend(name)  # fails here, loudly, if the framework is not there
        except UnavailableError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_ignore_collect(collection_path, config):
    """Leave out the folders of tests/frameworks that were not asked for: they import their framework."""
    is_foreign = collection_path.parent.name == "frameworks" and collection_path.name not in folders_of(_names(config))
    return True if is_foreign else None


def pytest_generate_tests(metafunc):
    """One item for each backend, and for each of its dtypes and modes where the test asks for them."""
    asked = [name for name in ("backend", "dtype", "mode") if name in metafunc.fixturenames]
    if "backend" not in asked:
        return
    needs = [mark.args[0] for mark in metafunc.definition.iter_markers("needs")]
    spare, alarmed = map(metafunc.definition.get_closest_marker, ("spare", "alarmed"))
    backends = [b for b in map(_backend, _names(metafunc.config)) if all(getattr(b, need) for need in needs)]
    items = [
        {"backend": b, "dtype": dtype, "mode": mode}
        for b in backends
        for dtype in (b.dtypes if "dtype" in asked else [None])
        for mode in (b.modes if "mode" in asked else [None])
        if (None in (dtype, mode) or b.covers(dtype, mode))
        and not (spare and b.spares(dtype, mode))
        and not (alarmed and mode in b.deaf_modes)
    ]
    items = items or [dict.fromkeys(asked)]
    ids = ["-".join([getattr(i["backend"], "name", "absent"), *(str(i[a]) for a in asked[1:])]) for i in items]
    metafunc.parametrize(asked, [[item[a] for a in asked] for item in items], ids=ids)


def pytest_collection_modifyitems(config, items):
    """Deselect the tests that none of these backends can run, such as those of derivatives on NumPy: nothing is skipped."""
    absent = [
        item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("backend", 0) is None
    ]
    config.hook.pytest_deselected(items=absent)
    items[:] = [item for item in items if item not in absent]


@pytest.fixture
def worst(request):
    """Call with what was measured: fails beyond the bound, and remembers the worst for the table."""

    def check(kind, backend, dtype, error):
        error = np.max(error, initial=0.0)
        key = (backend.name, dtype, kind)
        _worst[key] = max(_worst[key], float(np.nan_to_num(error, nan=np.inf)))
        assert error <= 1, f"{kind}: {error:.3g} times the bound"

    return check


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist
        session.config.workeroutput["worst"] = [[*key, error] for key, error in _worst.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for *key, worst_there in getattr(node, "workeroutput", {}).get("worst", []):
        _worst[tuple(key)] = max(_worst[tuple(key)], worst_there)


def pytest_terminal_summary(terminalreporter):
    if not _worst:
        return
    from tolerances import GRAD_RTOL, VALUE_RTOL

    terminalreporter.section("worst error seen, relative (bound)")
    rows = defaultdict(dict)
    for (backend, dtype, kind), error in _worst.items():
        bound = (VALUE_RTOL if kind == "value" else GRAD_RTOL)[dtype]
        rows[backend, dtype][kind] = f"{error * bound:.1e} ({bound:.0e})"
    for (backend, dtype), cells in sorted(rows.items()):
        line = "   ".join(f"{kind} {cells.get(kind, '-'):>18}" for kind in ("value", "gradient"))
        terminalreporter.write_line(f"{backend:>12} {dtype:>9}   {line}")
