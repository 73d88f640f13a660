"""A text model with several labels: ``python finetune_text.py --model bert-base-cased --train FILE.csv``.

It fine-tunes any encoder of the Hugging Face Hub, or of a folder, with the loss of your choice; stops early; tunes
thresholds on the validation rows; and leaves a folder with the model, the thresholds and a model card.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import text_data
from arguments import positive
from data import DataError

try:
    import report
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table

    from zlpr_core import __version__, predict
except ModuleNotFoundError as missing:
    sys.exit(f"finetune_text.py: {missing.name} is missing: {text_data.INSTALL}.")

LOSSES = {"zlpr": "ZLPR", "bce": "binary cross-entropy", "focal": "focal loss", "asymmetric": "asymmetric loss"}
ZERO, SHARED, EACH = "0", "one, tuned", "one a label, tuned"  # thresholds
FEW = 5  # positives, on which a threshold of their own would be luck
CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [multi-label]
---

# {model}, fine-tuned on {file}

{sentence}

On the test rows, by threshold:

{table}
"""


def main(argv: list[str] | None = None) -> int:
    """Train and report; 0 if all went well, 2 after a complaint."""
    arguments, console = parse(argv), Console()
    try:
        corpus = read(arguments)
        console.print(summary(corpus), highlight=False, soft_wrap=True)
        validation, test = trainer()(corpus, arguments, bar(console))
    except DataError as problem:
        return complain(str(problem))
    thresholds = tune(validation, corpus.validation.labels)
    rows = table(corpus.test.labels, test, thresholds)
    sentence = card_line(arguments.loss, thresholds[SHARED].item())
    console.print(on_screen(rows, f"{LOSSES[arguments.loss]}, {len(test)} test rows"))
    console.print(f"\n{sentence}", highlight=False)
    save(arguments, card(arguments, sentence, rows), corpus.classes, thresholds)
    console.print(f"Model, thresholds and card: {arguments.output}", soft_wrap=True, markup=False, highlight=False)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked before anything takes time."""
    parser = argparse.ArgumentParser(description="Fine-tune a text model that predicts sets of labels.")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="an encoder of the Hugging Face Hub, or a folder"
    )
    parser.add_argument("--loss", choices=LOSSES, default="zlpr")
    add_data(parser.add_argument_group("data", "CSV files in UTF-8, or TSV files if their names end in .tsv"))
    add_training(parser.add_argument_group("training"))
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder (default: text-LOSS)")
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output or Path(f"text-{arguments.loss}")
    if arguments.output.exists() and not (arguments.output.is_dir() and not any(arguments.output.iterdir())):
        parser.error(f"argument --output: must be a new or an empty folder, but is {arguments.output}")
    return arguments


def add_data(group: argparse._ArgumentGroup) -> None:
    """What to read, and how the files are laid out."""
    group.add_argument("--train", type=Path, required=True, metavar="FILE")
    for name in ("validation", "test"):
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help="(default: a tenth of the training rows)")
    group.add_argument("--text", default="text", metavar="COLUMN", help="with the texts (default: text)")
    several = "one with ids or names, several to a cell; or one a label, with 0 and 1, where A:Z are all from A to Z"
    group.add_argument("--labels", nargs="+", default=["labels"], metavar="COLUMN", help=f"{several} (default: labels)")
    group.add_argument("--separator", default=",", help="of the labels in a cell (default: a comma)")
    group.add_argument("--no-header", action="store_true", help="columns have no names: give their numbers, from 0")
    group.add_argument("--names", type=Path, metavar="FILE", help="the label of each id, one a line, from 0")


def add_training(group: argparse._ArgumentGroup) -> None:
    """What the Trainer is told."""
    group.add_argument("--epochs", type=positive, default=6, metavar="N", help="at most (default: 6)")
    group.add_argument("--patience", type=positive, default=2, metavar="N", help="epochs without a gain (default: 2)")
    best = "that chooses the best epoch (default: average precision, which no threshold changes)"
    group.add_argument("--metric", choices=report.METRICS, default="average precision", metavar="NAME", help=best)
    group.add_argument("--batch-size", type=positive, default=32, metavar="N", help="(default: 32)")
    group.add_argument("--learning-rate", type=float, default=3e-5, metavar="X", help="(default: 3e-5)")
    group.add_argument("--max-length", type=positive, default=128, metavar="N", help="tokens of a text (default: 128)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")


def read(arguments: argparse.Namespace) -> text_data.Corpus:
    """All rows, before anything that takes time to import."""
    layout = text_data.Layout(arguments.text, arguments.labels, not arguments.no_header, arguments.separator)
    others = [arguments.validation, arguments.test]
    return text_data.load(arguments.train, others, layout, names=arguments.names, seed=arguments.seed)


def trainer() -> Callable[..., list[np.ndarray]]:
    """``finetune`` of text_trainer.py, where everything that it imports is installed."""
    try:
        importlib.import_module("accelerate")  # which the Trainer asks for only when it starts
        return importlib.import_module("text_trainer").finetune
    except ModuleNotFoundError as missing:
        msg = f"{missing.name} is missing: {text_data.INSTALL}."
        raise DataError(msg) from None


def summary(corpus: text_data.Corpus) -> str:
    """What was read, so that a wrong column is seen at once."""
    rows = (f"{len(getattr(corpus, name).texts)} {name}" for name in ("train", "validation", "test"))
    labels = corpus.train.labels.sum(axis=1)
    empty = f", {(labels == 0).mean():.0%} of the rows without any" if (labels == 0).any() else ""
    return f"{len(corpus.classes)} labels, {labels.mean():.2f} a text{empty}; rows: {', '.join(rows)}"


def bar(console: Console) -> Progress:
    """Steps done, and the time left."""
    times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=console)


def tune(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """0; the one of the best micro F1; and those of the best macro F1, save for labels with few positives."""
    shared = best_threshold(logits.ravel(), labels.ravel())
    columns = zip(logits.T, labels.T, strict=True)
    each = [best_threshold(*column) if column[1].sum() >= FEW else shared for column in columns]
    return {ZERO: np.zeros(1), SHARED: np.array([shared]), EACH: np.array(each)}


def best_threshold(logits: np.ndarray, truth: np.ndarray) -> float:
    """Where F1 is highest, halfway to the next logit."""
    order = np.argsort(-logits)
    ranked, hits = logits[order].astype(float), np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    following = np.append(ranked[1:], ranked[-1] - 1)
    best = np.where(ranked > following, f1, 0).argmax()  # equal logits are on the same side
    return float((ranked[best] + following[best]) / 2)


def table(truth: np.ndarray, logits: np.ndarray, thresholds: dict[str, np.ndarray]) -> list[list[str]]:
    """A row a metric and a column a threshold, under a row of their names."""
    scores = [report.measure(truth, logits, predict(logits, threshold=row)) for row in thresholds.values()]
    rows = zip(report.SHOWN, *scores, strict=True)
    return [["threshold", *thresholds], *([name, *(f"{value:.3f}" for value in row)] for name, *row in rows)]


def on_screen(rows: list[list[str]], title: str) -> Table:
    """The table in the terminal."""
    view = Table(title=escape(title), box=box.SIMPLE, show_edge=False, pad_edge=False)
    for place, name in enumerate(rows[0]):
        view.add_column(name, justify="right" if place else "left")
    for row in rows[1:]:
        view.add_row(*row)
    return view


def in_markdown(rows: list[list[str]]) -> str:
    """The table in the model card."""
    line = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [rows[0], line, *rows[1:]])


def card_line(loss: str, threshold: float) -> str:
    """The loss, and where to cut. A score, of ``transformers.pipeline``, is the sigmoid of a logit."""
    score = 1 / (1 + np.exp(-threshold))
    return (
        f"Trained with {LOSSES[loss]} (zlpr {__version__}). A label is predicted where its logit is above 0, in a "
        f"pipeline a score of 0.5; tuned on validation, above {threshold:.2f}, a score of {score:.2f}, or above the "
        "label's own threshold in thresholds.json."
    )


def card(arguments: argparse.Namespace, sentence: str, rows: list[list[str]]) -> str:
    """The model card, as the Hub shows it."""
    return CARD.format(model=arguments.model, file=arguments.train.name, sentence=sentence, table=in_markdown(rows))


def save(arguments: argparse.Namespace, card: str, classes: list[str], thresholds: dict[str, np.ndarray]) -> None:
    """Card and thresholds, beside the model."""
    labels = dict(zip(classes, thresholds[EACH].tolist(), strict=True))
    content = json.dumps({"all labels": thresholds[SHARED].item(), "each label": labels}, indent=2, ensure_ascii=False)
    (arguments.output / "thresholds.json").write_text(content + "\n", encoding="utf-8")
    (arguments.output / "README.md").write_text(card, encoding="utf-8")


def complain(problem: str) -> int:
    """One sentence on stderr, and the exit code for it."""
    print(f"finetune_text.py: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
