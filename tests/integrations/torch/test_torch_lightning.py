"""Lightning and torchmetrics with the page's ``Tagger``."""

import copy

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_losses import assert_same
from torch_page import from_page
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelExactMatch, MultilabelF1Score

from zlpr_torch import predict, probabilities, zlpr_loss

pytestmark = [
    # Lightning's own, inside PyTorch's tree functions
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    # advice that depends on the machine: more worker processes, an idle GPU
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
Tagger = from_page("Tagger")
FEATURES = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
HARD = (FEATURES[:, :3] > 0).long()


def trainer(epochs=1):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **quiet)


def batches(features, target, size=16):
    return DataLoader(TensorDataset(features, target), batch_size=size)


@pytest.mark.parametrize("target", [HARD, 0.1 + 0.8 * HARD], ids=["hard", "soft"])
def test_it_trains_as_a_plain_loop_does(target):
    network = nn.Linear(4, 3)
    tagger = Tagger(copy.deepcopy(network), classes=3)
    trainer(epochs=30).fit(tagger, batches(FEATURES, target))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(30):
        for features, labels in batches(FEATURES, target):
            optimizer.zero_grad()
            zlpr_loss(network(features), labels).backward()
            optimizer.step()
    assert_same(dict(tagger.network.named_parameters()), dict(network.named_parameters()), rtol=0, atol=0)
    assert (predict(network(FEATURES)) == HARD).all(-1).double().mean() > 0.9


# the first batch looks like probabilities, the second holds a logit whose sigmoid is 0.5 in float32
LOGITS = torch.tensor([[0.2, 0.9, 0.0], [0.4, 0.0, 0.1], [2.0, -1.0, 1e-9], [-3.0, 0.3, -0.5]])
TRUTH = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 0, 1], [1, 1, 0]])


def f1_by_hand(chosen, truth):
    """2 TP / (2 TP + FP + FN) for each class; their mean."""
    return (2 * (chosen & truth).sum(0) / (chosen.sum(0) + truth.sum(0))).mean()


def precision_by_hand(scores, truth):
    """For each class the mean over its positives of the share of positives among those that score as much."""
    above = scores[None] >= scores[:, None]  # [j, i]: whether i scores at least as much as j
    precision = (above & truth[None]).sum(1) / above.sum(1)
    return ((precision * truth).sum(0) / truth.sum(0)).mean()


def test_metrics_of_an_adversarial_batch():
    (logged,) = trainer().validate(Tagger(nn.Identity(), classes=3), batches(LOGITS, TRUTH, size=2), verbose=False)
    chosen, truth = LOGITS > 0, TRUTH == 1
    expected = {
        "exact": (chosen == truth).all(-1).double().mean(),
        "f1": f1_by_hand(chosen, truth),
        "precision": precision_by_hand(LOGITS, truth),
    }
    assert logged == {name: pytest.approx(value.item(), rel=1e-6) for name, value in expected.items()}
    assert logged["exact"] == 0.75


@pytest.mark.parametrize("threshold", [0.5, 0.0])
@pytest.mark.parametrize("metric", [MultilabelExactMatch, MultilabelF1Score])
def test_raw_logits_are_judged_wrongly(metric, threshold):
    """At a threshold of 0 or 0.5, whether or not the logits of a batch happen to lie in [0, 1]."""
    raw, sets = metric(3, threshold=threshold), metric(3)
    results = [(raw(LOGITS[rows], TRUTH[rows]), sets(predict(LOGITS[rows]), TRUTH[rows])) for rows in ([0, 1], [2, 3])]
    assert [bool(a == b) for a, b in results] == ([False, False] if threshold == 0.5 else [True, False])


def test_raw_logits_are_ranked_wrongly_between_batches():
    """0.9 as a probability stands above 1.5 as a logit, whose sigmoid is 0.82."""
    logits, truth = torch.tensor([[0.9, 0.9], [1.5, 1.5], [-1.0, -1.0]]), torch.tensor([[0, 0], [1, 1], [0, 0]])
    raw, metric = MultilabelAveragePrecision(2), MultilabelAveragePrecision(2)
    for rows in ([0], [1, 2]):
        raw.update(logits[rows], truth[rows])
        metric.update(probabilities(logits[rows].double()), truth[rows])
    assert (raw.compute(), metric.compute()) == (0.5, 1.0)
