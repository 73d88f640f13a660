"""The Hugging Face ``Trainer`` with the page's ``compute_loss``: a tiny BERT, made up here."""

from functools import partial

import numpy as np
import pytest
import torch
from torch_losses import assert_same
from torch_page import from_page
from transformers import AutoModelForSequenceClassification, BertConfig, EvalPrediction, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from zlpr_torch import zlpr_entropy, zlpr_loss

compute_loss = from_page("compute_loss")
CLASSES, TOKENS = 3, 6
CONFIG = BertConfig(
    vocab_size=TOKENS,
    num_labels=CLASSES,
    problem_type="multi_label_classification",
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def read(tokens):
    """The labels of a text: which of the first tokens of the vocabulary stand in it."""
    return (tokens[..., None] == torch.arange(CLASSES)).any(1)


TRAINING_TOKENS = torch.randint(TOKENS, (256, 3), generator=torch.Generator().manual_seed(0))
HARD = read(TRAINING_TOKENS).long()
SOFT = 0.1 + 0.8 * HARD
UNKNOWN = HARD.masked_fill(TRAINING_TOKENS == TOKENS - 1, -100)
TARGETS = {"hard": HARD, "soft": SOFT, "unknown cells": UNKNOWN}


def trainer(folder, loss, labels, batch_size, accumulation=1, **arguments):
    torch.manual_seed(0)
    data = [{"input_ids": row, "labels": target} for row, target in zip(TRAINING_TOKENS, labels, strict=False)]
    quiet = {
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation, **arguments}
    return Trainer(
        AutoModelForSequenceClassification.from_config(CONFIG),
        TrainingArguments(str(folder), **quiet, **options),
        train_dataset=data,
        eval_dataset=data,
        compute_loss_func=loss,
        compute_metrics=from_page("compute_metrics"),
    )


@pytest.mark.parametrize("name", ["hard", "soft"])
def test_it_learns(tmp_path, name):
    """The loss falls to the least that the targets allow, and the predicted label sets are right."""
    training = trainer(tmp_path, compute_loss, TARGETS[name], 16, num_train_epochs=15, learning_rate=1e-2)
    training.compute_metrics = lambda evaluated: {"exact": ((evaluated.predictions > 0) == HARD.numpy()).all(-1).mean()}
    before = training.evaluate()
    training.train()
    after = training.evaluate()
    floor = zlpr_entropy(TARGETS[name]).mean().item()
    assert after["eval_loss"] - floor < 0.3 * (before["eval_loss"] - floor)
    assert before["eval_exact"] < 0.3
    assert after["eval_exact"] > 0.9


def trained(folder, loss, labels, batch_size, accumulation):
    """The parameters after two epochs of gradient descent, whose steps are as long as the gradient."""
    descent = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    training = trainer(folder, loss, labels, batch_size, accumulation, num_train_epochs=2, **descent)
    training.train()
    return dict(training.model.named_parameters())


def plain_mean(outputs, labels, num_items_in_batch=None):
    return zlpr_loss(outputs.logits, labels)


@pytest.mark.parametrize("name", ["hard", "soft"])
@pytest.mark.parametrize("examples", [16, 13], ids=["all batches full", "the last one small"])
def test_accumulation_is_one_double_batch(tmp_path, name, examples):
    """Two half batches, or one whole one, give the step of the mean over the whole."""
    labels = TARGETS[name][:examples]
    expected = trained(tmp_path, plain_mean, labels, 8, 1)
    for batch_size, accumulation in ((8, 1), (4, 2)):
        assert_same(trained(tmp_path, compute_loss, labels, batch_size, accumulation), expected, rtol=1e-5)


def test_a_plain_mean_accumulates_wrongly(tmp_path):
    whole, halves = (trained(tmp_path, plain_mean, HARD[:16], *sizes)["classifier.bias"] for sizes in ((8, 1), (4, 2)))
    assert (whole - halves).abs().max() > 1e-2


def test_unknown_cells(tmp_path):
    """With ``ignore_index``, as on the page, they are in neither the sum of the losses nor the count that divides it."""
    recipe = from_page("compute_loss")
    recipe.__globals__["zlpr_loss"] = partial(zlpr_loss, ignore_index=-100)
    whole, halves = (trained(tmp_path, recipe, UNKNOWN[:16], *sizes) for sizes in ((8, 1), (4, 2)))
    assert_same(halves, whole, rtol=1e-5)
    logits = torch.zeros(2, 3)
    labels = torch.tensor([[1, 0, -100], [1, -100, -100]])
    expected = (2 * np.log(2) + np.log(2)) / 3 * 3
    got = recipe(SequenceClassifierOutput(logits=logits), labels, num_items_in_batch=torch.tensor(3))
    assert got.item() == pytest.approx(expected)


def test_metrics_by_hand():
    logits = np.array([[1.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-1.0, -2.0, 0.0]])
    labels = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert from_page("compute_metrics")(EvalPrediction(logits, labels)) == {"exact": pytest.approx(2 / 3)}
