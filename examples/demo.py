"""ZLPR against binary cross-entropy on real data, everything else equal: ``python demo.py --framework torch``."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import report
from arguments import positive
from data import DataError, Dataset, Split, load_npz, load_yeast, split
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

INSTALL = {"torch": "pip install '.[torch]'", "jax": "pip install '.[jax]' flax optax", "keras": "pip install '.[tf]'"}
LOSSES = ("ZLPR", "BCE")


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration; 0 if all went well, 2 after a complaint."""
    arguments = parse(argv)
    framework = arguments.framework
    try:
        dataset = load_npz(arguments.data) if arguments.data else load_yeast()
        train = training(framework)
    except DataError as problem:
        return complain(str(problem))
    except ModuleNotFoundError as missing:
        return complain(f"--framework {framework} needs {missing.name}: in a clone, {INSTALL[framework]}.")
    console = Console()
    runs = compare(train, dataset, seeds=arguments.seeds, epochs=arguments.epochs, console=console)
    show(runs, f"{dataset.name} with {framework}", arguments.output, console)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked before anything takes time."""
    parser = argparse.ArgumentParser(description="Train with ZLPR and with binary cross-entropy, and compare.")
    parser.add_argument("--framework", choices=INSTALL, default="torch")
    parser.add_argument("--data", type=Path, metavar="FILE.npz", help="your own data (default: Yeast, from river)")
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="runs of each loss (default: 5)")
    parser.add_argument("--epochs", type=positive, default=50, metavar="N", help="of each run (default: 50)")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="the figure (default: demo-FRAMEWORK.png)")
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output or Path(f"demo-{arguments.framework}.png")
    if arguments.output.is_dir() or not arguments.output.parent.is_dir():
        parser.error(f"argument --output: must be a file in an existing folder, but is {arguments.output}")
    return arguments


def training(framework: str) -> Callable[..., None]:
    """``train`` of the one framework asked for; the others need not be installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints a notice at any log level
    return importlib.import_module(f"train_{framework}").train


def compare(
    train: Callable[..., None], dataset: Dataset, *, seeds: int, epochs: int, console: Console
) -> dict[str, report.Runs]:
    """Each loss with each seed: the same rows, the same initial weights, the same number of epochs."""
    runs = {name: report.Runs() for name in LOSSES}
    accuracy = TextColumn("subset accuracy {task.fields[accuracy]:.3f}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), accuracy, TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=seeds * len(LOSSES) * epochs, accuracy=0.0)
        for seed in range(seeds):
            part = split(dataset, seed)
            for name, run in runs.items():
                progress.update(bar, description=f"{name}, seed {seed + 1} of {seeds}")
                tick = partial(progress.update, bar, advance=1)
                run.add(*train_once(train, part, name, seed=seed, epochs=epochs, tick=tick))
    return runs


def train_once(
    train: Callable[..., None], part: Split, name: str, *, seed: int, epochs: int, tick: Callable[..., None]
) -> tuple[list[float], np.ndarray]:
    """Subset accuracy after each epoch, and all metrics after the last."""
    curve: list[float] = []
    last: list[np.ndarray] = []

    def after_epoch(logits: np.ndarray, labels: np.ndarray) -> None:
        curve.append(report.subset_accuracy(part.y_test, labels))
        last[:] = logits, labels
        tick(accuracy=curve[-1])

    train(part, name, seed=seed, epochs=epochs, report=after_epoch)
    return curve, report.measure(part.y_test, *last)


def show(runs: dict[str, report.Runs], setting: str, output: Path, console: Console) -> None:
    """Print the table and the verdict, and draw the figure."""
    console.print(report.table(runs, setting))
    report.draw(output, runs, setting)
    console.print(f"Figure: {output}", soft_wrap=True, markup=False, highlight=False)
    console.print(report.verdict(runs, setting), markup=False, highlight=False)


def complain(problem: str) -> int:
    """One sentence on stderr, and the exit code for it."""
    print(f"demo.py: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
