"""The Hugging Face part: an encoder with a new head, and the ``Trainer`` with a loss of one's choice."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import report
import torch
import transformers
from data import DataError
from huggingface_hub.utils import enable_progress_bars
from rich.progress import Progress
from text_data import Corpus, Texts
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from zlpr_core import predict  # for NumPy arrays, which the Trainer hands to metrics
from zlpr_torch import zlpr_loss


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, as the Trainer itself has it for several labels: the mean over the classes."""
    return _cells(logits, labels).mean(-1)


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Lin et al., 2017, with gamma 2: a cell counts by the square of what its probability lacks."""
    cells = _cells(logits, labels)
    return ((1 - torch.exp(-cells)) ** 2 * cells).mean(-1)


def asymmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """Ridnik et al., 2021, with gammas 0 and 4 and margin 0.05: easy negatives count little, the easiest not at all."""
    shifted = (logits.sigmoid() - 0.05).clamp(min=0)
    negative = -(shifted**4) * torch.log1p(-shifted)
    return torch.where(labels > 0, _cells(logits, labels), negative).mean(-1)


def _cells(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")


# One number an example. What is added here can be chosen as soon as it has a name in finetune_text.py.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "zlpr": partial(zlpr_loss, reduction="none"),
    "bce": bce,
    "focal": focal,
    "asymmetric": asymmetric,
}


def finetune(corpus: Corpus, options: argparse.Namespace, progress: Progress) -> list[np.ndarray]:
    """Save the model of the best epoch; return its logits of the validation and the test rows."""
    transformers.set_seed(options.seed)  # before the model, whose head starts at random
    model, tokenizer = load(options.model, corpus.classes)
    train, validation, test = (tokenized(part, tokenizer, options.max_length) for part in corpus[1:])
    options.output.mkdir(parents=True, exist_ok=True)
    with progress, TemporaryDirectory(dir=options.output) as checkpoints:
        trainer = transformers.Trainer(
            model,
            training_arguments(checkpoints, options),
            transformers.DataCollatorWithPadding(tokenizer),
            train,
            validation,
            compute_loss_func=partial(compute_loss, LOSSES[options.loss]),
            compute_metrics=compute_metrics,
            callbacks=[transformers.EarlyStoppingCallback(options.patience), Watch(progress, options.metric)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        for part in (model, tokenizer):
            part.save_pretrained(options.output)
        return [trainer.predict(part).predictions for part in (validation, test)]


def load(name: str, classes: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """By name from the Hub, or from a folder. A head that was there for other classes is replaced."""
    transformers.logging.set_verbosity_error()  # else a table tells that the head is new, as it must be
    transformers.logging.disable_progress_bar()  # of weights that are read or written
    enable_progress_bars()  # of downloads, which take longer
    labels = {"id2label": dict(enumerate(classes)), "label2id": {label: i for i, label in enumerate(classes)}}
    kind = {"problem_type": "multi_label_classification", "ignore_mismatched_sizes": True}
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, **labels, **kind)
        return model, transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as problem:
        where = "this folder" if Path(name).is_dir() else "there is no such folder, and from the Hub it"
        msg = f"--model {name}: {where} cannot be loaded: {' '.join(str(problem).split()).rstrip('.')}."
        raise DataError(msg) from None


def tokenized(part: Texts, tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, Any]]:
    """What the model reads; a batch is padded only as far as its longest text."""
    length = min(length, tokenizer.model_max_length)
    tokens = tokenizer(part.texts, truncation=True, max_length=length)
    return [
        {**{key: tokens[key][row] for key in tokens}, "labels": labels}
        for row, labels in enumerate(part.labels.tolist())
    ]


def training_arguments(checkpoints: str, options: argparse.Namespace) -> TrainingArguments:
    """Once an epoch it validates and keeps the best; bfloat16 where the GPU has it."""
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        checkpoints,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        warmup_steps=0.1,  # of all steps
        weight_decay=0.01,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=4 * options.batch_size,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=on_gpu,
        seed=options.seed,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model=options.metric,
        greater_is_better=bool(report.BETTER[report.METRICS.index(options.metric)] > 0),
        report_to="none",
        disable_tqdm=True,
    )


def compute_loss(
    loss: Callable[[Tensor, Tensor], Tensor], outputs: Any, labels: Tensor, num_items_in_batch: Any = None
) -> Tensor:
    """The mean over the examples of all accumulated batches, whose cells the Trainer has counted (docs/pytorch.md)."""
    cells = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return loss(outputs.logits.float(), labels).sum() * labels.shape[-1] / cells


def compute_metrics(evaluated: transformers.EvalPrediction) -> dict[str, float]:
    """All six at threshold 0, for the choice of the best epoch."""
    logits, labels = evaluated.predictions, evaluated.label_ids
    return dict(zip(report.METRICS, report.measure(labels, logits, predict(logits)).tolist(), strict=True))


class Watch(TrainerCallback):
    """A bar with the time left and a line an epoch, in place of the Trainer's dictionaries."""

    def __init__(self, progress: Progress, metric: str) -> None:
        self.progress, self.metric, self.loss = progress, metric, float("nan")

    def on_train_begin(self, args, state, control, **_):
        """All steps, unless it stops early."""
        self.bar = self.progress.add_task("training", total=state.max_steps)

    def on_step_end(self, args, state, control, **_):
        """One more."""
        self.progress.update(self.bar, completed=state.global_step)

    def on_log(self, args, state, control, logs, **_):
        """The training loss comes before the validation."""
        self.loss = logs.get("loss", self.loss)

    def on_evaluate(self, args, state, control, metrics, **_):
        """One line."""
        loss, score = metrics["eval_loss"], metrics[f"eval_{self.metric}"]
        line = f"epoch {state.epoch:.0f}: loss {self.loss:.4f}; validation: loss {loss:.4f}, {self.metric} {score:.3f}"
        self.progress.console.print(line, highlight=False)

    def on_train_end(self, args, state, control, **_):
        """Early stopping spares the rest."""
        self.progress.update(self.bar, total=state.global_step)
        best = args.num_train_epochs * state.best_global_step / state.max_steps
        self.progress.console.print(f"kept: epoch {best:.0f}", highlight=False)
