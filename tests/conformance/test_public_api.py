"""Names, documentation and option defaults are those of the contract, in every package alike."""

import importlib
import inspect

import pytest

HELPERS = {"check_targets", "index_to_span", "multi_hot", "predict", "probabilities", "smooth_labels", "span_to_index"}
DIVERGENCES = {"kl_divergence", "symmetric_kl_divergence", "zlpr_divergence", "zlpr_entropy"}
FUNCTIONS = HELPERS | DIVERGENCES | {"rdrop_zlpr_loss", "sparse_zlpr_loss", "zlpr_loss", "zlpr_terms"}
CORE = {"Array", "Namespace", "rdrop_zlpr", "sparse_zlpr", "zlpr", "zlpr_grad", "zlpr_hessian_diag", "zlpr_terms"}
PUBLIC = {
    "zlpr_core": HELPERS | DIVERGENCES | CORE,
    "zlpr_torch": FUNCTIONS | {"RDropZLPRLoss", "SparseZLPRLoss", "ZLPRKLDivLoss", "ZLPRLoss"},
    "zlpr_jax": FUNCTIONS,
    "zlpr_tf": FUNCTIONS | {"RDropZLPR", "SparseZLPRLoss", "ZLPRLoss"},
}
WEIGHTS = {"weight": None, "pos_weight": None, "threshold": 0.0}
COMMON, TORCH = {"axis": -1, "where": None}, {"dim": -1, "mask": None}
SMOOTH, IGNORE, MEAN = {"label_smoothing": 0.0}, {"ignore_index": None}, {"reduction": "mean"}
RDROP, SCALE, PAD, XP = {"alpha": 4.0, "scale": 1.0}, {"scale": 1.0}, {"pad": -1}, {"xp": None}
PAIR, IMPL = ["p_logits", "q_logits"], {"impl": "auto"}
SIGNATURES = {
    ("zlpr_core", "zlpr"): (["logits", "targets"], COMMON | WEIGHTS | XP),
    ("zlpr_core", "zlpr_terms"): (["logits", "targets"], COMMON | WEIGHTS | XP),
    ("zlpr_core", "zlpr_grad"): (["logits", "targets"], COMMON | WEIGHTS | XP),
    ("zlpr_core", "zlpr_hessian_diag"): (["logits", "targets"], COMMON | WEIGHTS | XP),
    ("zlpr_core", "sparse_zlpr"): (["logits", "indices"], COMMON | WEIGHTS | PAD | XP),
    ("zlpr_core", "rdrop_zlpr"): (["logits1", "logits2", "targets"], RDROP | COMMON | WEIGHTS | XP),
    **{(core, name): (PAIR, COMMON | SCALE | XP) for core in ("zlpr_core", "zlpr_jax", "zlpr_tf") for name in ("kl_divergence", "symmetric_kl_divergence")},
    **{(core, "zlpr_divergence"): (PAIR, COMMON | XP) for core in ("zlpr_core", "zlpr_jax", "zlpr_tf")},
    ("zlpr_torch", "zlpr_loss"): (["input", "target"], TORCH | WEIGHTS | SMOOTH | IGNORE | MEAN | IMPL),
    ("zlpr_torch", "zlpr_terms"): (["input", "target"], TORCH | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_torch", "sparse_zlpr_loss"): (["input", "indices"], TORCH | WEIGHTS | SMOOTH | PAD | MEAN | IMPL),
    ("zlpr_torch", "rdrop_zlpr_loss"): (["input1", "input2", "target"], RDROP | TORCH | WEIGHTS | SMOOTH | IGNORE | MEAN),
    ("zlpr_torch", "kl_divergence"): (PAIR, TORCH | SCALE | MEAN),
    ("zlpr_torch", "symmetric_kl_divergence"): (PAIR, TORCH | SCALE | MEAN),
    ("zlpr_torch", "zlpr_divergence"): (PAIR, TORCH | MEAN),
    ("zlpr_jax", "zlpr_loss"): (["logits", "labels"], COMMON | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_jax", "zlpr_terms"): (["logits", "labels"], COMMON | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_jax", "sparse_zlpr_loss"): (["logits", "indices"], COMMON | WEIGHTS | SMOOTH | PAD),
    ("zlpr_jax", "rdrop_zlpr_loss"): (["logits1", "logits2", "labels"], RDROP | COMMON | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_tf", "zlpr_loss"): (["labels", "logits"], COMMON | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_tf", "zlpr_terms"): (["labels", "logits"], COMMON | WEIGHTS | SMOOTH | IGNORE),
    ("zlpr_tf", "sparse_zlpr_loss"): (["indices", "logits"], COMMON | WEIGHTS | SMOOTH | PAD),
    ("zlpr_tf", "rdrop_zlpr_loss"): (["labels", "logits1", "logits2"], RDROP | COMMON | WEIGHTS | SMOOTH | IGNORE),
}  # fmt: skip


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
        assert list(parameters)[: len(arrays)] == arrays
        assert {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY} == options


def test_every_public_name_is_documented_with_an_example(packages):
    for package in packages.values():
        for public in package.__all__:
            text = inspect.getdoc(getattr(package, public))
            assert text, public
            assert ">>>" in text or public in ("Array", "Namespace"), public
