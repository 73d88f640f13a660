"""Names, documentation and option defaults are those of the contract, in every package alike."""

import importlib
import inspect

import pytest
from registry import packages_of

import zlpr_core

HELPERS = {"check_targets", "index_to_span", "multi_hot", "predict", "probabilities", "smooth_labels", "span_to_index"}
DIVERGENCES = {"kl_divergence", "symmetric_kl_divergence", "zlpr_divergence", "zlpr_entropy"}
FUNCTIONS = HELPERS | DIVERGENCES | {"rdrop_zlpr_loss", "sparse_zlpr_loss", "zlpr_loss", "zlpr_terms"}
LINEAR = {"LinearGradients", "linear_zlpr", "linear_zlpr_grad", "sparse_linear_zlpr"}
LOSSES = {"rdrop_zlpr", "sparse_zlpr", "zlpr", "zlpr_grad", "zlpr_hessian_diag", "zlpr_terms"}
CORE = {"Array", "Namespace"} | LINEAR | LOSSES
ADAPTER_LINEAR = {
    "zlpr_jax": {"linear_zlpr_loss", "sparse_linear_zlpr_loss"},
    "zlpr_tf": {"LinearZLPR", "linear_zlpr_loss", "sparse_linear_zlpr_loss"},
    "zlpr_torch": {"LinearPlan", "LinearZLPRLoss", "linear_zlpr_loss", "sparse_linear_zlpr_loss"},
}
CLASSES = {
    "zlpr_torch": {"RDropZLPRLoss", "SparseZLPRLoss", "ZLPRKLDivLoss", "ZLPRLoss"},
    "zlpr_tf": {"RDropZLPR", "SparseZLPRLoss", "ZLPRLoss"},
}
COMMON, SCALE, PAD, XP = {"axis": -1, "where": None}, {"scale": 1.0}, {"pad": -1}, {"xp": None}
WEIGHTS, RDROP = {"weight": None, "pos_weight": None, "threshold": 0.0}, {"alpha": 4.0, "scale": 1.0}
OPTIONS = {  # of the core; an adapter has these, and those that its harness calls its own
    "zlpr": COMMON | WEIGHTS,
    "zlpr_terms": COMMON | WEIGHTS,
    "sparse_zlpr": COMMON | WEIGHTS | PAD,
    "rdrop_zlpr": COMMON | WEIGHTS | RDROP,
    "kl_divergence": COMMON | SCALE,
    "symmetric_kl_divergence": COMMON | SCALE,
    "zlpr_divergence": COMMON,
}
LAYER = {"bias": None, "chunk": None, "where": None}
CORE_ONLY = {  # the arrays and the options of each
    "zlpr_grad": (["logits", "targets"], COMMON | WEIGHTS),
    "zlpr_hessian_diag": (["logits", "targets"], COMMON | WEIGHTS),
    "linear_zlpr": (["inputs", "linear_weight", "targets"], LAYER | WEIGHTS),
    "linear_zlpr_grad": (["inputs", "linear_weight", "targets"], LAYER | WEIGHTS | {"upstream": 1.0}),
    "sparse_linear_zlpr": (["inputs", "linear_weight", "indices"], LAYER | WEIGHTS | PAD),
}


def public(package):
    if package == "zlpr_core":
        return HELPERS | DIVERGENCES | CORE
    return FUNCTIONS | CLASSES.get(package, set()) | ADAPTER_LINEAR.get(package, set())


def options_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.fixture
def packages(request):
    """The core, and the adapter of the framework under test."""
    names = packages_of(request.config.getoption("--backend").split(","))
    return {name: importlib.import_module(name) for name in names}


def test_public_names(packages):
    for name, package in packages.items():
        assert set(package.__all__) == public(name)
        assert package.__all__ == sorted(package.__all__)
        assert all(hasattr(package, public) for public in package.__all__)


@pytest.mark.parametrize("name", OPTIONS)
def test_signatures(backend, name):
    function, arrays = backend.function(name), backend.arguments(name)
    assert list(inspect.signature(function).parameters)[: len(arrays)] == arrays
    expected = {backend.dialect.get(option, option): default for option, default in OPTIONS[name].items()}
    assert options_of(function) == expected | backend.own_options(name)


@pytest.mark.parametrize("name", CORE_ONLY)
def test_signatures_that_only_the_core_has(name):
    function, (arrays, options) = getattr(zlpr_core, name), CORE_ONLY[name]
    assert list(inspect.signature(function).parameters)[: len(arrays)] == arrays
    assert options_of(function) == options | XP


def test_every_public_name_is_documented_with_an_example(packages):
    for package in packages.values():
        for public in package.__all__:
            text = inspect.getdoc(getattr(package, public))
            assert text, public
            assert ">>>" in text or public in ("Array", "LinearGradients", "Namespace"), public
