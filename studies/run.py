"""Every loss on every set, tuned alike: ``python -m studies.run``, or ``nox -s study -- --data DIR``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data import DataError, Dataset
from demo import positive
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from studies import figures, report, results, sets
from studies.losses import LOSSES
from studies.models import HIDDEN
from studies.readings import read
from studies.training import Budget, divide, train

QUICK = {"losses": ["BCE", "focal", "Dice linear", "ZLPR"], "models": ["MLP"], "seeds": 3}
QUICK_BUDGET = Budget(steps=100, checkpoints=4)


def main(argv: list[str] | None = None) -> int:
    """Train, write and show; 0 if all went well, 2 after a complaint."""
    arguments = parse(argv)
    console = Console(width=max(110, Console().width))
    try:
        scores = results.Scores(arguments.output, QUICK_BUDGET if arguments.quick else Budget())
        run(scores, sets.load(arguments.sets, arguments.data), arguments, console)
    except DataError as problem:
        print(f"studies: {problem}", file=sys.stderr)
        return 2
    figures.draw(arguments.output)
    report.show(arguments.output, console)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; a quick run has fewer of everything unless told."""
    parser = argparse.ArgumentParser(description="Compare losses for multi-label classification, tuned alike.")
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME", help="all of DIR, or Yeast, unless named")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of .npz files (default: OpenML for --sets)")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, metavar="NAME", help="default: all")
    parser.add_argument("--models", nargs="+", choices=HIDDEN, help="default: both")
    parser.add_argument("--seeds", type=positive, metavar="N", help="default: 10")
    parser.add_argument("--quick", action="store_true", help="a look: few losses, seeds and steps")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the CSV files (default: study or study-quick)")
    arguments = parser.parse_args(argv)
    chosen = QUICK if arguments.quick else {"losses": list(LOSSES), "models": list(HIDDEN), "seeds": 10}
    for name, value in chosen.items():
        setattr(arguments, name, getattr(arguments, name) or value)
    arguments.output = arguments.output or Path("study-quick" if arguments.quick else "study")
    return arguments


def run(scores: results.Scores, datasets: Iterator[Dataset], arguments: argparse.Namespace, console: Console) -> None:
    """What is not there yet, set by set; a bar for each, as sets differ in time."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, speed_estimate_period=600) as progress:
        for dataset in datasets:
            results.add_facts(scores.path.with_name("sets.csv"), results.facts(dataset, divide(dataset, 0)))
            units = [unit for unit in wanted(dataset.name, arguments) if unit not in scores.done]
            bar = progress.add_task(dataset.name, total=len(units))
            for unit in units:
                progress.update(bar, description=", ".join(map(str, unit)))
                scores.add(unit, one(dataset, unit, scores.budget))
                progress.advance(bar)
            progress.update(bar, description=dataset.name)


def wanted(name: str, arguments: argparse.Namespace) -> list[results.Unit]:
    """In the order in which compiled programs are used again. Without dropout R-Drop has nothing to agree on."""
    pairs = [(model, loss) for model in arguments.models for loss in arguments.losses]
    sound = [(model, loss) for model, loss in pairs if HIDDEN[model] or LOSSES[loss].passes == 1]
    return [(name, *pair, seed) for pair in sound for seed in range(arguments.seeds)]


def one(dataset: Dataset, unit: results.Unit, budget: Budget) -> list:
    """Train all configurations of a loss with one seed, and choose."""
    _, model, loss, seed = unit
    part = divide(dataset, seed)
    return read(*train(LOSSES[loss], model, part, seed=seed, budget=budget), part)


if __name__ == "__main__":
    sys.exit(main())
