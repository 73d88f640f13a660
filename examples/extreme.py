"""Very many labels on a small machine: ``python extreme.py`` trains a model of 670 000 on rows that it makes up.

The last layer and its loss are one function that never has all logits, and hands over the gradient of the labels'
weights a chunk at a time. ``--data FILE`` trains on a set of the Extreme Classification Repository instead.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from arguments import positive
from data import DataError

try:
    import extreme_data
    import extreme_report
    import torch
    from extreme_memory import BCE, ZLPR, measured, memory, size_that_fits
    from extreme_trainer import OPTIMIZERS, Model, Trainer, best_labels
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as missing:
    sys.exit(f"extreme.py: {missing.name} is missing: in a clone, pip install '.[torch]' --group bench.")

LABELS, ROWS, TEST_ROWS = 670_000, 20_000, 2_000
QUICK = {"labels": 20_000, "rows": 6_000}


def main(argv: list[str] | None = None) -> int:
    """Train and report; 0 if all went well, 2 after a complaint."""
    arguments, console = parse(argv), Console()
    try:
        corpus = read(arguments)
        extreme_data.check(corpus)
    except DataError as problem:
        print(f"extreme.py: {problem}", file=sys.stderr)
        return 2
    console.print(extreme_report.summary(corpus), highlight=False, soft_wrap=True, markup=False)
    best = learn(corpus, arguments, console)
    found = score(corpus, best)
    steps = compare(corpus.labels, arguments.batch_size, console)
    console.print(extreme_report.table(found, steps, arguments.batch_size, len(corpus.test)))
    console.print(extreme_report.meaning(found, steps, arguments.batch_size), highlight=False)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked before anything takes time."""
    parser = argparse.ArgumentParser(description="Train a model of very many labels, and see what it takes.")
    parser.add_argument("--data", type=Path, metavar="FILE", help="train on this file of the XMC repository")
    parser.add_argument("--test", type=Path, metavar="FILE", help="test on this (default: a tenth of --data)")
    parser.add_argument("--labels", type=positive, metavar="N", help=f"to make up (default: {LABELS})")
    parser.add_argument("--rows", type=positive, metavar="N", help=f"to make up and train on (default: {ROWS})")
    parser.add_argument("--epochs", type=positive, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--batch-size", type=positive, default=256, metavar="N", help="(default: 256)")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adagrad")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--quick", action="store_true", help="fewer labels and rows")
    arguments = parser.parse_args(argv)
    if arguments.test and not arguments.data:
        parser.error("argument --test: needs --data")
    return arguments


def read(arguments: argparse.Namespace) -> extreme_data.Corpus:
    """From files, or made up."""
    if arguments.data:
        return extreme_data.load(arguments.data, arguments.test, seed=arguments.seed)
    usual = QUICK if arguments.quick else {"labels": LABELS, "rows": ROWS}
    labels, rows = arguments.labels or usual["labels"], arguments.rows or usual["rows"]
    return extreme_data.make(labels=labels, rows=rows, test_rows=TEST_ROWS, seed=arguments.seed)


def learn(corpus: extreme_data.Corpus, arguments: argparse.Namespace, console: Console) -> np.ndarray:
    """The best labels of the test rows, after training; loss and memory while it goes on."""
    torch.manual_seed(arguments.seed)
    rng, batch = np.random.default_rng(arguments.seed), arguments.batch_size
    model = Model(corpus.features, corpus.labels)
    trainer, start = Trainer(model, arguments.optimizer), time.perf_counter()
    steps = -(-len(corpus.train) // batch)
    with bar(console) as progress:
        task = progress.add_task("training", total=steps * arguments.epochs, **state())
        for _ in range(arguments.epochs):
            for loss in trainer.epoch(corpus.train, batch, rng):
                progress.update(task, advance=1, **state(f"loss {loss:.2f}"))
        took = time.perf_counter() - start
        task = progress.add_task("testing", total=-(-len(corpus.test) // batch), **state())
        best = []
        for part in best_labels(model, corpus.test, batch):
            best.append(part)
            progress.update(task, advance=1, **state())
    each = took / steps / arguments.epochs
    peak = f"{memory().peak / 1e6:.0f} MB at most, the program included"
    console.print(f"trained in {took:.0f} s, {each:.2f} s a step; {peak}", highlight=False, soft_wrap=True)
    return np.concatenate(best)


def score(corpus: extreme_data.Corpus, best: np.ndarray) -> list[np.ndarray]:
    """The metrics of the model's labels, and of those that are on most training rows."""
    inverse = extreme_report.inverse_propensities(corpus.train, corpus.labels)
    truth = corpus.test.labels_of(np.arange(len(corpus.test)))
    popular = extreme_report.popular(corpus.train, corpus.labels, len(truth))
    return [extreme_report.scores(labels, truth, inverse) for labels in (best, popular)]


def bar(console: Console) -> Progress:
    """Steps, the loss, time, and memory now and at most."""
    fields = TextColumn("{task.fields[note]}"), TextColumn("{task.fields[memory]}")
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *fields,
        console=console,
    )


def state(note: str = "") -> dict[str, str]:
    """What the bar shows beside the steps."""
    now = memory()
    return {"note": note, "memory": f"{now.resident / 1e6:.0f} MB, at most {now.peak / 1e6:.0f}"}


def compare(labels: int, batch: int, console: Console) -> list[extreme_report.Measured]:
    """A step of either head with all labels, and with as many as fit beside dense BCE."""
    fitting, found = size_that_fits(labels, batch=batch), []
    with console.status("measuring a step of either head"):
        for size in dict.fromkeys([labels, fitting]):
            bce = measured(BCE, labels=size, batch=batch) if size == fitting else None
            found.append(extreme_report.Measured(size, measured(ZLPR, labels=size, batch=batch), bce))
    return found


if __name__ == "__main__":
    sys.exit(main())
