"""The page about the study has the numbers and figures of the committed CSV files, and these are of a whole run."""

import sys
from itertools import product

import pages
import pytest
from registry import ROOT

sys.path.insert(0, str(ROOT))

from studies import figures, page, results, run, training
from studies.losses import LOSSES
from studies.models import HIDDEN
from studies.readings import WANTED

SCORES = results.read(page.RESULTS / "scores.csv")


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: path.name)
def test_numbers_are_those_of_the_run(path):
    text = path.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python -m studies.page"
    assert page.MARKED.search(text)


def test_every_table_is_shown():
    texts = "".join(path.read_text(encoding="utf-8") for path in page.PAGES)
    assert {found[2] for found in page.MARKED.finditer(texts)} == set(page.NAMES)


def test_figures_are_those_of_the_run(tmp_path):
    for name in ("scores.csv", "sets.csv"):
        (tmp_path / name).write_bytes((page.RESULTS / name).read_bytes())
    figures.draw(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name for path in page.RESULTS.glob("*.svg")}
    for name in drawn:
        pages.check_drawing(tmp_path / name, page.RESULTS / name, "run python -m studies.figures studies/results")


def test_the_run_is_whole():
    """Seven sets, ten seeds, every loss with every model that it makes sense for."""
    sets = {row["set"] for row in SCORES}
    assert len(sets) == 7
    wanted = [(*unit, str(seed)) for unit in product(sets, HIDDEN, LOSSES) for seed in range(10)]
    sound = [unit for unit in wanted if HIDDEN[unit[1]] or LOSSES[unit[2]].passes == 1]
    assert sorted({tuple(row[key] for key in results.UNIT) for row in SCORES}) == sorted(sound)
    assert len(SCORES) == len(sound) * len(WANTED)


def test_the_run_is_that_of_this_code():
    """Results of another protocol, or without the sources of a loss, would tell of something that nobody can repeat."""
    stated = {row["setting"]: row["value"] for row in results.read(page.RESULTS / "settings.csv")}
    depends_on_the_machine = {"cpu", "threads", "python", "versions"}
    now = results.settings(training.Budget())
    assert stated.keys() == now.keys()
    for name in now.keys() - depends_on_the_machine:
        assert stated[name] == str(now[name]), name
    head, *rows = results.described_losses()
    stated = [tuple(row.values()) for row in results.read(page.RESULTS / "losses.csv")]
    assert stated == [tuple(map(str, row)) for row in rows]
    assert run.Budget is training.Budget
    assert len(head) == len(rows[0])
