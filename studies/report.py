"""What a run shows at its end: the test scores and ranks of every loss by each metric."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from studies.metrics import BETTER, METRICS
from studies.readings import AS_TRAINED
from studies.results import read
from studies.statistics import pick, ranks


def show(folder: Path, console: Console) -> None:
    """A table for each model, of losses as they were trained; every other reading is in the CSV."""
    rows = read(folder / "scores.csv")
    for model in dict.fromkeys(row["model"] for row in rows):
        console.print(table([row for row in rows if row["model"] == model], model))
    where = f"All readings, sets and seeds: {folder / 'scores.csv'}; figures beside it."
    console.print(where, soft_wrap=True, markup=False, highlight=False)


def table(rows: list[dict[str, str]], model: str) -> Table:
    """Losses down, metrics across: the mean over sets and seeds, and the average rank."""
    seeds, sets = ({row[key] for row in rows} for key in ("seed", "set"))
    caption = f"Test rows, mean over {len(seeds)} seeds and {len(sets)} sets, and average rank; {AS_TRAINED}."
    view = Table(title=f"{model}: {', '.join(sorted(sets))}", caption=caption, box=box.SIMPLE, show_edge=False)
    view.add_column("loss")
    cells = {}
    for metric, sign in zip(METRICS, BETTER, strict=True):
        view.add_column(metric, justify="right")
        scores = pick(rows, reading=AS_TRAINED, metric=metric)
        for loss, rank in ranks(scores, dict.fromkeys(loss for _, loss in scores)).average.items():
            values = [sign * part.mean() for (_, name), part in scores.items() if name == loss]
            cells.setdefault(loss, []).append(f"{sum(values) / len(values):.3f} ({rank:.1f})")
    for loss in dict.fromkeys(row["loss"] for row in rows):
        view.add_row(loss, *cells[loss])
    return view
