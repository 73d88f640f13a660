"""The study measures as scikit-learn does, means what its sources mean, notices a broken loss, and loses nothing."""

import os
import subprocess
import sys
from urllib.error import URLError

import jax
import numpy as np
import optax
import pages
import pytest
from registry import ROOT
from sklearn import metrics as reference

sys.path.insert(0, str(ROOT))

from studies import (
    additions,
    dependence,
    figures,
    losses,
    mulan,
    results,
    rows_by_labels,
    run,
    sets,
    statistics,
    training,
)
from studies.losses import LOSSES, bce, odds_against, zlpr_smoothing
from studies.metrics import METRICS, measure
from studies.readings import CRITERION, ONE_MODEL, TUNED, read
from zlpr_core import smooth_labels, zlpr

RNG = np.random.default_rng(0)
TINY = training.Budget(steps=40, checkpoints=2, batch=32)


def expected(logits, labels, threshold):
    predicted = logits > threshold
    micro, macro, example = (
        reference.f1_score(labels, predicted, average=average, zero_division=empty)
        for average, empty in (("micro", 1), ("macro", np.nan), ("samples", 1))
    )
    precision = reference.label_ranking_average_precision_score(labels, logits)
    order = reference.label_ranking_loss(labels, logits)
    subset, hamming = reference.accuracy_score(labels, predicted), reference.hamming_loss(labels, predicted)
    return [subset, example, micro, macro, precision, order, hamming]


def labels_of(density, rows=40, classes=7):
    return (RNG.random((rows, classes)) < density).astype(np.int64)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("steps", [3, 1000], ids=["ties", "no ties"])
def test_metrics_are_those_of_scikit_learn(density, steps):
    labels = labels_of(density)
    labels[0], labels[1], labels[:, 2] = 0, 1, 0
    logits = RNG.integers(-steps, steps, (3, *labels.shape)).astype(np.float32)
    logits[:, :, 2] = -steps  # a class that is nowhere, and not predicted
    thresholds = np.array([[0.0, 1.0], [-1.0, 0.0], [0.0, 0.5]], np.float32)
    found = measure(logits, labels, thresholds)
    for model in range(3):
        for number, threshold in enumerate(thresholds[model]):
            np.testing.assert_allclose(found[model, number], expected(logits[model], labels, threshold), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_diverged_has_no_score(bad):
    logits = np.zeros((2, 4, 3), np.float32)
    logits[1, 2, 1] = bad
    found = measure(logits, labels_of(0.5, 4, 3), np.zeros((2, 1), np.float32))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


S, U, Y = RNG.normal(0, 2, (5, 6)), RNG.normal(0, 2, (5, 6)), labels_of(0.4, 5, 6)
Y[0], Y[1] = 0, 1
P, Q = sigmoid(S), sigmoid(U)
NLL = -Y * np.log(P) - (1 - Y) * np.log(1 - P)
PAIRS = [
    sum(np.exp(s[j] - s[i]) for i in np.flatnonzero(y) for j in np.flatnonzero(1 - y))
    for s, y in zip(S, Y, strict=True)
]
SHIFTED = np.maximum(P - 0.05, 0)
SYMMETRIC = ((P - Q) * (S - U)).sum(axis=1)
NLL_U = -Y * np.log(Q) - (1 - Y) * np.log(1 - Q)
OTHER = -(1 - Y) * np.log(P) - Y * np.log(1 - P)  # as if each label were the other one
WEIGHT = np.array([3.0, 1, 2, 0.5, 1, 9])
FORMULAS = {
    "BCE": ([S], NLL.sum(axis=1)),
    "BCE mean": ([S], NLL.mean(axis=1)),
    "BCE pos_weight": ([S, WEIGHT], (NLL * np.where(Y, WEIGHT, 1)).sum(axis=1)),
    "BCE smoothing": ([S, 0.1], (0.95 * NLL + 0.05 * OTHER).sum(axis=1)),
    "BCE mixup": ([S, 0.4], NLL.sum(axis=1)),
    "BCE R-Drop": ([np.stack([S, U]), 2.0], (NLL + NLL_U).sum(axis=1) / 2 + 2 / 4 * SYMMETRIC),
    "focal": ([S, 2.0], optax.sigmoid_focal_loss(np.float32(S), Y, gamma=2.0).sum(axis=1)),
    "ASL": ([S, 4.0], -(Y * np.log(P) + (1 - Y) * SHIFTED**4 * np.log(1 - SHIFTED)).sum(axis=1)),
    "Dice linear": ([S, 0.5], 1 - (2 * P * Y + 0.5 / 6).sum(axis=1) / (P + Y + 0.5 / 6).sum(axis=1)),
    "Dice squared": ([S, 0.5], 1 - (2 * P * Y + 0.5 / 6).sum(axis=1) / (P**2 + Y**2 + 0.5 / 6).sum(axis=1)),
    "LSEP": ([S], np.log1p(PAIRS)),
    "ZLPR": ([S], zlpr(S, Y)),
    "ZLPR smoothing": ([S, 0.1], zlpr(S, smooth_labels(Y, 0.1, mode="positive"))),
    "ZLPR mixup": ([S, 0.4], zlpr(S, Y)),
    "ZLPR R-Drop": ([np.stack([S, U]), 2.0], (zlpr(S, Y) + zlpr(U, Y)) / 2 + 2 / 4 * SYMMETRIC),
    "TLPR": ([S], zlpr(S, Y)),
}


def test_every_loss_is_checked():
    assert FORMULAS.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    (logits, *given), values = FORMULAS[name]
    found = LOSSES[name].function(np.float32(logits), Y, *np.float32(given))
    np.testing.assert_allclose(found, values, rtol=1e-5)


def test_the_loss_in_five_lines():
    (block,) = pages.blocks("studies/README.md")
    exec(block, {"loss": losses.loss, "jax": jax})
    hinge = LOSSES.pop("hinge")
    assert len(training.grid(hinge)) == 16
    assert hinge.function(np.float32([[0.2, -3]]), np.array([[1, 0]]), np.float32(0.5)).tolist() == [pytest.approx(0.3)]


def test_smoothing_takes_a_traced_epsilon():
    assert zlpr_smoothing(S, Y, np.float32(0)).tolist() == LOSSES["ZLPR"].function(S, Y).tolist()


def test_a_class_without_positives_has_weight_one():
    assert odds_against(np.array([[1, 0], [0, 0], [0, 0]])).tolist() == [2, 1]


def test_every_loss_may_choose_among_as_many():
    assert {len(training.grid(loss)) for loss in LOSSES.values()} == {16}
    ends = {
        (min(rates), max(rates))
        for loss in LOSSES.values()
        for rates in [[c.learning_rate for c in training.grid(loss)]]
    }
    assert ends == {training.LEARNING_RATES}


def toy(folder, *names, rows=160):
    """Sets that a linear model can learn."""
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        x = random.normal(size=(rows, 6)).astype(np.float32)
        np.savez(folder / f"{name}.npz", X=x, Y=(x @ random.normal(size=(6, 4)) > 0.5).astype(np.uint8))
    return folder


def studied(monkeypatch, folder, output, *arguments):
    monkeypatch.setattr(run, "QUICK_BUDGET", TINY)
    code = run.main(["--quick", "--data", str(folder), "--output", str(output), "--seeds", "2", *arguments])
    return code, (output / "scores.csv").read_bytes()


def test_broken_losses_come_last(monkeypatch, tmp_path):
    """One has the sign of its negatives flipped; the other is BCE with a learning rate that is far too high."""
    flipped = LOSSES["BCE"]._replace(name="flipped", function=lambda s, y: bce((2 * y - 1) * s, y))
    monkeypatch.setitem(LOSSES, "flipped", flipped)
    monkeypatch.setitem(LOSSES, "too fast", LOSSES["BCE"]._replace(name="too fast"))
    fair = training.grid
    too_fast = [training.Configuration(100.0, 0.0, 0.0)]
    monkeypatch.setattr(training, "grid", lambda loss: too_fast if loss.name == "too fast" else fair(loss))
    names = ["flipped", "BCE", "too fast", "ZLPR", "Dice linear"]
    assert studied(monkeypatch, toy(tmp_path, "a", "b", "c"), tmp_path / "out", "--losses", *names)[0] == 0
    rows = results.read(tmp_path / "out" / "scores.csv")
    for metric in figures.PANELS:
        found = figures.of(rows, "MLP", "threshold 0", metric)
        assert set(list(found.average)[-2:]) == {"flipped", "too fast"}, metric


def test_a_stopped_run_goes_on_and_says_the_same(monkeypatch, tmp_path):
    toy(tmp_path, "a", "b")
    arguments = ["--losses", "ZLPR mixup", "TLPR"]
    whole = studied(monkeypatch, tmp_path, tmp_path / "one", *arguments)[1]
    for kept in (0, 1, len(whole) // 3, len(whole) - 1):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / "scores.csv").write_bytes(whole[:kept])
        again = studied(monkeypatch, tmp_path, tmp_path / "two", *arguments)[1]
        assert again.splitlines()[0] == whole.splitlines()[0]
        assert sorted(again.splitlines()) == sorted(whole.splitlines())


def test_settings_do_not_mix(monkeypatch, tmp_path, capsys):
    studied(monkeypatch, toy(tmp_path, "a"), tmp_path / "out", "--losses", "BCE")
    monkeypatch.setattr(run, "QUICK_BUDGET", TINY._replace(steps=20))
    code = run.main(["--quick", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert code == 2
    assert capsys.readouterr().err.endswith("holds results of another steps; choose another --output, or remove it.\n")


def test_what_a_reading_chooses(tmp_path):
    """Only validation decides: the test logits may be anything."""
    dataset = sets.load_npz(toy(tmp_path, "a") / "a.npz")
    part = training.divide(dataset, 0)
    validation, test = training.train(LOSSES["BCE"], "linear", part, seed=0, budget=TINY)
    chosen, otherwise = (read(validation, logits, part) for logits in (test, -test))
    assert [row[:-1] for row in chosen] == [row[:-1] for row in otherwise]
    assert len({row[2:5] for row in chosen if row.reading == ONE_MODEL}) == 1
    by_name = {(row.reading, row.metric): row for row in chosen}
    for metric in ("subset accuracy", METRICS[CRITERION]):
        assert by_name[TUNED, metric].validation >= by_name["threshold 0", metric].validation
    row = by_name[TUNED, "micro F1"]
    predicted = test[row.configuration, row.checkpoint] > np.float32(row.threshold)
    assert row.test == pytest.approx(reference.f1_score(part.y_test, predicted, average="micro"))


def test_validation_rows_are_training_rows(tmp_path):
    dataset = sets.load_npz(toy(tmp_path, "a") / "a.npz")
    one, other = (training.divide(dataset, seed) for seed in (0, 1))
    assert [len(rows) for rows in one] == [79, 79, 20, 20, 61, 61]
    assert not np.array_equal(one.y_validation, other.y_validation)


def test_quick(tmp_path):
    command = [
        sys.executable,
        "-m",
        "studies.run",
        "--quick",
        "--seeds",
        "1",
        "--losses",
        "BCE",
        "ZLPR",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, capture_output=True, encoding="utf-8", check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "subset" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "sets.csv", "losses.csv", "settings.csv", "ranks-mlp.svg", "gains-mlp.svg", "sets-mlp.svg"}  # fmt: skip


def refused(capsys, tmp_path, *arguments):
    assert run.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    return capsys.readouterr().err


def test_sets_that_are_not_there(tmp_path, capsys, monkeypatch):
    def unreachable(reason="no route", **_):
        raise URLError(reason)

    monkeypatch.setattr(sets, "fetch_openml", unreachable)
    toy(tmp_path, "a", "b")
    assert "has no c.npz, but a, b.\n" in refused(capsys, tmp_path, "--data", str(tmp_path), "--sets", "c")
    assert "OpenML is asked for birds, emotions, " in refused(capsys, tmp_path, "--sets", "c")
    assert "OpenML cannot be reached (<urlopen error no route>); try --data DIR.\n" in refused(
        capsys, tmp_path, "--sets", "scene"
    )


def test_openml(monkeypatch):
    """As scikit-learn returns these sets: an array of numbers, and one of the words TRUE and FALSE."""
    target = np.array([["TRUE", "FALSE"], ["FALSE", "FALSE"]], dtype=object)
    asked = {}
    bunch = type("Bunch", (), {"data": np.array([[0.5, 1], [0, 1]]), "target": target})
    monkeypatch.setattr(sets, "fetch_openml", lambda **given: asked.update(given) or bunch)
    (dataset,) = sets.load(["emotions"], None)
    assert asked["data_id"] == 40589  # scikit-learn's own tests have this one
    assert dataset.labels.tolist() == [[1, 0], [0, 0]]
    assert (dataset.name, dataset.dense, dataset.features.dtype) == ("emotions", True, np.float32)


HEADER = """@relation 'toy: -C 2'
@attribute width numeric
@attribute place {2,10,1}
@attribute has {0,1}
@attribute 'Tom & Jerry' {0,1}
@attribute Sunset {0,1}
@data
"""
LABELS = '<labels xmlns="http://mulan.sourceforge.net/labels">\n<label name="Tom &amp; Jerry"></label>\n<label name="Sunset"/>\n'


@pytest.mark.parametrize(
    "rows", [["1.5,10,1,0,1", "0,2,0,1,1"], ["{0 1.5, 1 10, 2 1, 4 1}", "{3 1, 4 1}"]], ids=["dense", "sparse"]
)
def test_mulan(tmp_path, rows):
    """A nominal feature has a column for each value, and a label is what the XML file names."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.xml").write_text(LABELS, encoding="utf-8")
    for part in ("train", "test"):
        (folder / f"toy-{part}.arff").write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    assert mulan.main([str(folder), "--output", str(tmp_path)]) == 0
    dataset = sets.load_npz(tmp_path / "toy.npz")
    assert dataset.features.tolist() == 2 * [[1.5, 0, 1, 0, 1], [0, 1, 0, 0, 0]]
    assert dataset.labels.tolist() == 2 * [[0, 1], [1, 1]]
    assert [part.tolist() for part in dataset.rows] == [[0, 1], [2, 3]]
    assert dataset.dense == (rows[0][0] != "{")


def test_mulan_names_what_is_wrong(tmp_path, capsys):
    assert mulan.main([str(tmp_path)]) == 2
    assert "must hold one *.xml beside the train and test files, but has 0." in capsys.readouterr().err
    (tmp_path / "toy.xml").write_text(LABELS.replace("Sunset", "Dawn"), encoding="utf-8")
    for part in ("train", "test"):
        (tmp_path / f"toy-{part}.arff").write_text(HEADER + "1,10,1,0,1\n", encoding="utf-8")
    assert mulan.main([str(tmp_path)]) == 2
    assert "toy.xml names labels that toy-train.arff has not: Dawn.\n" in capsys.readouterr().err


def test_statistics():
    assert statistics.critical(4, 14) == pytest.approx(1.25, abs=0.005)  # Demšar's example
    gains = statistics.paired(np.array([0.3, 0.4, 0.5]), np.array([0.1, 0.1, 0.1]))
    assert (gains.gain, gains.half) == (pytest.approx(0.3), pytest.approx(4.302653 * 0.1 / np.sqrt(3)))
    assert gains.verdict == "win"
    scores = {(name, loss): np.array([value, value + 0.001 * number]) for number, name in enumerate("xyz") for loss, value in (("a", 0.5), ("b", 0.2), ("c", 0.5))}  # fmt: skip
    assert statistics.ranks(scores, ["a", "b", "c"]).average == {"a": 1.5, "c": 1.5, "b": 3}
    assert statistics.record(scores, "a", "b") == {"win": 3, "tie": 0, "loss": 0}
    assert statistics.record(scores, "a", "c") == {"win": 0, "tie": 3, "loss": 0}
    lower = [{"set": "x", "loss": "a", "seed": "0", "metric": "ranking loss", "test": "0.25"}]
    assert statistics.pick(lower, metric="ranking loss")["x", "a"] == -0.25
    assert figures.groups(np.array([1.0, 1.5, 2.5, 2.6, 4]), 1.2) == [(0, 1), (1, 3)]


def test_additions():
    rows = [
        {
            "model": "MLP",
            "reading": "threshold 0",
            "metric": "micro F1",
            "set": "x",
            "loss": loss,
            "seed": str(seed),
            "test": str(score),
        }
        for loss, score in (("BCE", 0.5), ("BCE mixup", 0.75))
        for seed in range(2)
    ]
    (row,) = additions.additions(rows, {"x": "9"})
    assert row == ("MLP", "threshold 0", "micro F1", "BCE mixup", "BCE", "x", "9", "0.250000", "0.000000", "win")


def test_population_optimum():
    """One label of eleven: the most likely has 40 %, so BCE predicts none, and ZLPR that one."""
    chances = np.array([0.4, *[0.06] * 10])
    best, by_zlpr, by_bce = dependence.decisions(np.eye(11, dtype=np.int64), chances)
    assert (best.sum(), by_zlpr.tolist(), by_bce.any()) == (1, best.astype(bool).tolist(), False)
    assert dependence.zlpr_optimum(np.eye(11, dtype=np.int64), chances)[0] == pytest.approx(0.147, abs=1e-3)


def test_chances_of_label_sets(monkeypatch):
    """By the frequency of the sets in many draws; how likely a label is does not depend on what is shared."""
    monkeypatch.setattr(dependence, "ROWS", 20_000)
    for shared in (0.0, 0.75):
        dataset, scores = dependence.synthetic(shared)
        sets_, chances = dependence.set_chances(scores[:2000], shared)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        np.testing.assert_allclose(chances @ sets_, dependence.ndtr(scores[:2000]), atol=1e-6)
        often = np.bincount(dataset.labels @ 2 ** np.arange(dependence.CLASSES), minlength=64) / 20_000
        np.testing.assert_allclose(chances.mean(axis=0), often, atol=0.012)


def test_rows_by_labels(monkeypatch):
    monkeypatch.setattr(rows_by_labels, "COMPARED", ("ZLPR",))
    dataset = rows_by_labels.synthetic(rows=300)
    assert set(rows_by_labels.kinds(dataset.labels)) == {0, 1, 2, 3}
    rows = list(rows_by_labels.experiment(dataset, 1, TINY))
    assert [row[3] for row in rows] == list(rows_by_labels.KINDS)
    assert sum(row[4] for row in rows) == len(training.divide(dataset, 0).y_test)
