"""Names, documentation and option defaults are those of the contract, in every package alike."""

import importlib
import inspect

import pytest

HELPERS = {"check_targets", "multi_hot", "predict", "probabilities", "smooth_labels", "zlpr_entropy"}
PUBLIC = {
    "zlpr_core": HELPERS | {"Array", "Namespace", "zlpr", "zlpr_grad", "zlpr_terms"},
    "zlpr_torch": HELPERS | {"ZLPRLoss", "zlpr_loss", "zlpr_terms"},
    "zlpr_jax": HELPERS | {"zlpr_loss", "zlpr_terms"},
    "zlpr_tf": HELPERS | {"ZLPRLoss", "zlpr_loss", "zlpr_terms"},
}
OPTIONS = {"weight": None, "pos_weight": None, "threshold": 0.0}
ADAPTER = {**OPTIONS, "label_smoothing": 0.0, "ignore_index": None}
SIGNATURES = {
    ("zlpr_core", "zlpr"): (["logits", "targets"], {"axis": -1, "where": None, **OPTIONS, "xp": None}),
    ("zlpr_core", "zlpr_terms"): (["logits", "targets"], {"axis": -1, "where": None, **OPTIONS, "xp": None}),
    ("zlpr_core", "zlpr_grad"): (["logits", "targets"], {"axis": -1, "where": None, **OPTIONS, "xp": None}),
    ("zlpr_torch", "zlpr_loss"): (["input", "target"], {"dim": -1, "mask": None, **ADAPTER, "reduction": "mean"}),
    ("zlpr_torch", "zlpr_terms"): (["input", "target"], {"dim": -1, "mask": None, **ADAPTER}),
    ("zlpr_jax", "zlpr_loss"): (["logits", "labels"], {"axis": -1, "where": None, **ADAPTER}),
    ("zlpr_jax", "zlpr_terms"): (["logits", "labels"], {"axis": -1, "where": None, **ADAPTER}),
    ("zlpr_tf", "zlpr_loss"): (["labels", "logits"], {"axis": -1, "where": None, **ADAPTER}),
    ("zlpr_tf", "zlpr_terms"): (["labels", "logits"], {"axis": -1, "where": None, **ADAPTER}),
}


@pytest.fixture
def packages(request):
    """The core, and the adapter of the framework under test."""
    names = request.config.getoption("--backend").split(",")
    adapters = {
        "torch": "zlpr_torch",
        "jax": "zlpr_jax",
        "tf": "zlpr_tf",
        "keras-jax": "zlpr_tf",
        "keras-torch": "zlpr_tf",
    }
    return {
        name: importlib.import_module(name) for name in ["zlpr_core", *(adapters[n] for n in names if n in adapters)]
    }


def test_public_names(packages):
    for name, package in packages.items():
        assert set(package.__all__) == PUBLIC[name]
        assert package.__all__ == sorted(package.__all__)
        assert all(hasattr(package, public) for public in package.__all__)


def test_signatures(packages):
    for (name, function), (arrays, options) in SIGNATURES.items():
        if name not in packages:
            continue
        parameters = inspect.signature(getattr(packages[name], function)).parameters
        assert list(parameters)[:2] == arrays
        assert {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY} == options


def test_every_public_name_is_documented_with_an_example(packages):
    for package in packages.values():
        for public in package.__all__:
            text = inspect.getdoc(getattr(package, public))
            assert text, public
            assert ">>>" in text or public in ("Array", "Namespace"), public
