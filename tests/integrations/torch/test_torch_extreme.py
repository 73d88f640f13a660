"""The example with very many labels: what it makes up, reads and refuses, how it scores, and whole runs of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

import extreme
import extreme_data
import extreme_memory
import extreme_report
import extreme_trainer
from data import DataError

ALL = np.arange(3)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def in_the_format(rows, features, labels):
    """Lines that ``read`` turns into these rows."""
    lines = [f"{len(rows)} {features} {labels}"]
    for row in range(len(rows)):
        words, values, _ = rows.words_of(np.array([row]))
        pairs = " ".join(f"{word}:{value}" for word, value in zip(words, values, strict=True))
        lines.append(f"{','.join(map(str, rows.labels_of(np.array([row]))[0]))} {pairs}")
    return lines


# --- made up ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    return extreme_data.plant(20_000, features=1000, rng=np.random.default_rng(0))


def test_frequencies_follow_the_law_of_zipf(world):
    ranked = np.sort(world.frequency)[::-1]
    np.testing.assert_allclose(ranked / ranked[0], 100 / (100 + np.arange(20_000)))
    rows = extreme_data.draw(world, 20_000, np.random.default_rng(1))
    drawn = np.bincount(rows.labels, minlength=20_000)[np.argsort(-world.frequency)] / len(rows.labels)
    for first in (100, 1000, 5000):  # a label that a row has twice counts once, which takes from the frequent ones
        assert drawn[:first].sum() == pytest.approx(ranked[:first].sum(), rel=0.25)


def test_rows_speak_of_one_topic_in_the_words_of_their_labels(world):
    rows = extreme_data.draw(world, 200, np.random.default_rng(1))
    counts = np.diff(rows.label_starts)
    assert (counts.min(), counts.max()) == (1, 10)
    for row in range(200):
        labels = rows.labels_of(np.array([row]))[0]
        words, values, _ = rows.words_of(np.array([row]))
        assert len(set(labels)) == len(labels)
        assert len({world.topic[label] for label in labels}) == 1
        assert all(np.isin(words, world.words[label]).sum() >= 3 for label in labels)
        assert len(words) == 3 * len(labels) + 5
        assert (values == 1).all()


def test_the_seed_decides():
    one, again, other = (
        extreme_data.make(labels=500, rows=50, test_rows=10, seed=seed).train.words for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[:50], other[:50])


# --- read ---------------------------------------------------------------------------------------------------------

GOOD = ["3 4 6", "5,0,5 1:0.5 3:2", " 0:-1e-2", "2 "]


def test_the_format_is_read(tmp_path):
    rows, features, labels = extreme_data.read(write(tmp_path / "a.txt", *GOOD))
    assert (len(rows), features, labels) == (3, 4, 6)
    np.testing.assert_array_equal(rows.labels_of(ALL), [[5, 0], [-1, -1], [2, -1]])
    words, values, starts = rows.words_of(ALL)
    assert (words.tolist(), starts.tolist()) == ([1, 3, 0], [0, 2, 3])
    np.testing.assert_allclose(values, [0.5, 2, -0.01])
    np.testing.assert_array_equal(rows.some(np.array([2, 0])).labels_of(ALL[:2]), [[2, -1], [5, 0]])


def test_what_is_written_is_read(tmp_path, world):
    rows = extreme_data.draw(world, 50, np.random.default_rng(1))
    rows_again, *sizes = extreme_data.read(write(tmp_path / "a.txt", *in_the_format(rows, 1000, 20_000)))
    assert sizes == [1000, 20_000]
    # the format has no row without a number, so what fills a row up is never read
    for one, other in zip(rows, rows_again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_are_set_aside_or_given(tmp_path):
    train = write(tmp_path / "a.txt", "11 2 6", *(f"{row % 6} 0:{row}" for row in range(11)))
    corpus = extreme_data.load(train, None, seed=0)
    assert (len(corpus.train), len(corpus.test)) == (9, 2)
    assert sorted([*corpus.train.values, *corpus.test.values]) == list(range(11))
    test = write(tmp_path / "b.txt", "1 2 6", "3 1:1")
    assert extreme_data.load(train, test, seed=0).test.labels.tolist() == [3]


REFUSED = {
    "no file": (None, "the file cannot be opened (No such file or directory)"),
    "empty": ([], "the first line must be three whole numbers above 0: points, features, labels, but is ''"),
    "no header": (GOOD[1:], "the first line must be three whole numbers above 0: points, features, labels, but is '5,0,5 1:0.5 3:2'"),
    "no labels": (["3 4 0", *GOOD[1:]], "the first line must be three whole numbers above 0"),
    "too few lines": (["4 4 6", *GOOD[1:]], "the first line says 4 points, but 3 lines follow"),
    "too many lines": (["2 4 6", *GOOD[1:]], "the first line says 2 points, but 3 lines follow"),
    "label too high": (["1 4 6", "6 1:1"], "line 2: a label must be a whole number from 0 to 5, but is '6'"),
    "label is a name": (["1 4 6", "cat 1:1"], "line 2: a label must be a whole number from 0 to 5, but is 'cat'"),
    "labels end in a comma": (["1 4 6", "1, 1:1"], "line 2: a label must be a whole number from 0 to 5, but is ''"),
    "feature too high": (["1 4 6", "1 4:1"], "line 2: a feature must be a whole number from 0 to 3, but is '4'"),
    "no value": (["1 4 6", "1 2"], "line 2: feature 2 must have a finite value after a colon, but has ''"),
    "value is a word": (["1 4 6", "1 2:x"], "line 2: feature 2 must have a finite value after a colon, but has 'x'"),
    "value is nan": (["1 4 6", "1 2:nan"], "line 2: feature 2 must have a finite value after a colon, but has 'nan'"),
    "value is infinite": (["1 4 6", "1 2:1e99"], "line 2: feature 2 must have a finite value after a colon, but has '1e99'"),
    "one row": (["1 4 6", "1 2:1"], "one row is too few to set some aside; pass --test FILE"),
    "few labels": (["3 4 4", *["1 2:1"] * 3], "precision at 5 needs 5 labels or more, but there are 4"),
    "no label": (["3 4 6", *[" 2:1"] * 3], "no row to test on has a label"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_data(tmp_path, capsys, lines, sentence):
    path = tmp_path / "a.txt"
    if lines is not None:
        write(path, *lines)
    assert extreme.main(["--data", str(path)]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert re.fullmatch(r"extreme\.py: [^\n]*[^.\n]\.\n", errors)  # one line, one full stop at its end


def test_other_files_are_refused(tmp_path):
    train = write(tmp_path / "a.txt", *GOOD)
    other = write(tmp_path / "b.txt", "1 4 7", "1 2:1")
    with pytest.raises(DataError, match=r"must have the 4 features and 6 labels of .*a\.txt, but has \[4, 7\]\.$"):
        extreme_data.load(train, other, seed=0)
    (tmp_path / "c.txt").write_bytes(b"3 4 6\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"c\.txt: the file must be text in UTF-8\.$"):
        extreme_data.read(tmp_path / "c.txt")


@pytest.mark.parametrize("arguments", [["--test", "a.txt"], ["--labels", "0"], ["--optimizer", "adam"]], ids=str)
def test_bad_arguments(arguments):
    with pytest.raises(SystemExit, match="2"):
        extreme.main(arguments)


# --- scores -------------------------------------------------------------------------------------------------------


def rows_of(*labels):
    starts = np.append(0, np.cumsum([len(row) for row in labels]))
    return extreme_data.Rows(*np.zeros((3, 0)), np.array([i for row in labels for i in row]), starts)


def test_scores_by_hand():
    """Label 0 is on 8 of 10 rows, label 1 on 2, label 2 on one, the others on none."""
    train = rows_of([0, 1], [0, 1], [0, 2], *[[0]] * 5, [], [])
    inverse = extreme_report.inverse_propensities(train, 6)
    often, twice, once, never = (1 + (2.302585 - 1) * 2.5**0.55 * (n + 1.5) ** -0.55 for n in (8, 2, 1, 0))
    np.testing.assert_allclose(inverse, [often, twice, once, never, never, never], rtol=1e-6)
    assert inverse[1] == pytest.approx(2.0825, abs=1e-4)
    best = np.array([[0, 1, 2, 3, 4], [3, 0, 1, 2, 5]])
    truth = np.array([[0, 2, -1], [4, 3, 1]])
    expected = [
        2 / 2, 4 / 6, 4 / 10,
        (often + never) / (once + never),
        (often + once + never + twice) / (once + often + never + never + twice),
        (often + once + never + twice) / (once + often + never + never + twice),
    ]  # fmt: skip
    np.testing.assert_allclose(extreme_report.scores(best, truth, inverse), expected, rtol=1e-6)


def test_popular_labels():
    train = rows_of([4, 1], [1, 4], [1, 2], [0])
    np.testing.assert_array_equal(extreme_report.popular(train, 7, 2), [[1, 4, 0, 2, 3]] * 2)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", extreme_trainer.OPTIMIZERS)
def test_a_step_in_chunks_is_a_step_with_the_whole_gradient(name):
    corpus = extreme_data.make(labels=30_000, rows=100, test_rows=1, seed=0)
    chosen, models = np.arange(100), []
    for hooked in (True, False):
        torch.manual_seed(0)
        model = extreme_trainer.Model(corpus.features, corpus.labels)
        trainer = extreme_trainer.Trainer(model, name)
        if not hooked:
            update = model.head.weight_grad_hook
            model.head.weight_grad_hook, model.head.memory_budget = None, 2**30
        for _ in range(2):
            trainer.step(corpus.train, chosen)
            if not hooked:
                update(slice(None), model.head.weight.grad)
                model.head.weight.grad = None
        assert model.head.weight.grad is None
        models.append(model)
    torch.testing.assert_close(*[dict(model.named_parameters()) for model in models], rtol=1e-4, atol=1e-6)
    assert models[0].head.weight.abs().max() > 0.1


def test_adagrad_by_hand():
    parameter = torch.zeros(2, 2)
    optimizer = extreme_trainer.Adagrad(parameter, 0.5)
    for _ in range(2):
        optimizer.step(slice(1, 2), torch.tensor([[3.0, 1.0]]))
    first, second = (1e-4 + 5) ** -0.5, (1e-4 + 10) ** -0.5
    step = 0.5 * (first + second)
    torch.testing.assert_close(parameter, torch.tensor([[0.0, 0.0], [-3 * step, -step]]))


# --- memory -------------------------------------------------------------------------------------------------------


def test_memory_of_this_process():
    before = extreme_memory.memory()
    kept = torch.ones(50_000_000)
    now = extreme_memory.memory()
    assert now.resident - before.resident == pytest.approx(kept.numel() * 4, rel=0.1)
    del kept
    later = extreme_memory.memory()
    assert later.resident < now.resident - 100e6
    assert later.peak == pytest.approx(now.resident, rel=0.02)  # the kernel counts them apart


@pytest.mark.parametrize("head", [extreme_memory.ZLPR, extreme_memory.BCE])
def test_what_is_computed_is_what_is_measured(head):
    """Beside what libraries take at their first call."""
    step = extreme_memory.measured(head, labels=200_000, batch=256)
    computed = extreme_memory.needed(head, labels=200_000, batch=256)
    assert 0.9 * computed < step.peak - step.program < 1.2 * computed + 40e6
    assert step.seconds > 0


def test_a_size_that_fits(monkeypatch):
    monkeypatch.setattr(extreme_memory, "_free", lambda: 1e9)
    size = extreme_memory.size_that_fits(670_000, batch=256)
    assert size == 670_000 // 8
    assert extreme_memory.needed("bce", labels=size, batch=256) <= 0.5e9
    monkeypatch.setattr(extreme_memory, "_free", lambda: 1e12)
    assert extreme_memory.size_that_fits(670_000, batch=256) == 670_000


# --- whole runs ---------------------------------------------------------------------------------------------------


def run(*arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, extreme.__file__, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def figures(output):
    """The numbers of the table, by the names of its rows."""
    lines = re.findall(r"^ (\S.*?)  +([\d.]+)(?: GB| MB)?  +([\d.]+)(?: GB| MB)? +$", output, re.MULTILINE)
    return {name: [float(value) for value in values] for name, *values in lines}


def assert_learned(found):
    for metric, least in {"P@1": 10, "P@3": 10, "P@5": 10, "PSP@1": 10, "PSP@3": 10, "PSP@5": 10}.items():
        model, popular = found[metric]
        assert least * popular < model <= 1, metric


def test_quick():
    output = run("--quick")
    assert re.match(
        r"made up: 20,000 labels, of which 1\d,\d{3} are on a training row; 1,250 features; 6,000 rows to train on and "
        r"2,000 to test on, \d\.\d labels a row\n",
        output,
    )
    assert re.search(r"^trained in \d+ s, \d\.\d\d s a step; \d+ MB at most, the program included$", output, re.M)
    found = figures(output)
    assert_learned(found)
    assert found["P@1"][0] > 0.3
    ours, dense = found["20,000 labels: memory, computed"]
    assert ours < dense
    assert set(found) == {*extreme_report.METRICS, *(name for name in found if name.startswith("20,000 labels: "))}
    assert len(found) == 9
    right, popular, times = re.search(
        r"right on ([\d.]+)% of the .* one is on ([\d.]+)%\. The head .*, ([\d.]+) times as much\.$",
        " ".join(output.split()),
    ).groups()
    assert [float(right) / 100, float(popular) / 100] == pytest.approx(found["P@1"], abs=0.001)
    assert float(times) == pytest.approx(dense / ours, abs=0.2)


def test_files_and_the_other_optimizer(tmp_path):
    corpus = extreme_data.make(labels=2000, rows=3000, test_rows=500, seed=3)
    sizes = corpus.features, corpus.labels
    train = write(tmp_path / "train.txt", *in_the_format(corpus.train, *sizes))
    test = write(tmp_path / "test.txt", *in_the_format(corpus.test, *sizes))
    options = ["--data", str(train), "--test", str(test), "--optimizer", "sgd", "--batch-size", "64", "--epochs", "2"]
    output = run(*options)
    assert output.startswith("train: 2,000 labels, of which ")
    found = figures(output)
    assert found["P@1"][0] > 0.3
    assert found["P@1"][0] > 5 * found["P@1"][1]


def test_where_dense_bce_does_not_fit(monkeypatch):
    steps = {"zlpr": extreme_memory.Step(0.5, 1e6, 9e6), "bce": extreme_memory.Step(0.7, 1e6, 2e9)}
    monkeypatch.setattr(extreme, "measured", lambda head, **_: steps[head])
    monkeypatch.setattr(extreme, "size_that_fits", lambda labels, **_: labels // 4)
    whole, part = extreme.compare(1000, 8, extreme.Console())
    assert (whole.labels, whole.bce, part.labels, part.bce) == (1000, None, 250, steps["bce"])
    assert whole.lines(8)[1:] == [("memory, measured", "8 MB", "does not fit"), ("seconds a step", "0.50", "")]
    assert part.lines(8)[1:] == [("memory, measured", "8 MB", "2.00 GB"), ("seconds a step", "0.50", "0.70")]
