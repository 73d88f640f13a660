"""The demo reads data sets, refuses bad ones in one sentence, measures rightly and runs to its end."""

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import data
import demo
import distillation
import report

PNG = b"\x89PNG\r\n\x1a\n"
X = np.random.default_rng(0).normal(3, 2, (40, 5)).astype(np.float32)
Y = (X[:, :3] > 3).astype(np.uint8)
DENSE = {"X": X, "Y": Y}
SPLIT = {**DENSE, "train_idx": np.arange(30), "test_idx": np.arange(30, 40)}
CSR = {
    "X_data": np.array([1.0, 2.0, 3.0], np.float32),
    "X_indices": np.array([0, 2, 1]),
    "X_indptr": np.array([0, 2, 2, 3]),
    "X_shape": np.array([3, 4]),
    "Y": np.eye(3, dtype=np.uint8),
}


def write(folder, content):
    path = folder / "toy.npz"
    path.write_bytes(content if isinstance(content, bytes) else saved(np.savez, **content))
    return path


def saved(save, *args, **arrays):
    file = BytesIO()
    save(file, *args, **arrays)
    return file.getvalue()


def changed(array, place, value):
    copy = array.copy()
    copy[place] = value
    return copy


def test_yeast():
    yeast = data.load_yeast()
    assert [yeast.features.shape, yeast.labels.shape] == [(2417, 103), (2417, 14)]
    assert yeast.labels.sum(axis=1).mean().round(3) == 4.237  # labels per gene in the literature
    assert [len(rows) for rows in data.split(yeast, seed=0)] == [1500, 1500, 917, 917]


def test_dense(tmp_path):
    loaded = data.load_npz(write(tmp_path, DENSE))
    np.testing.assert_array_equal(loaded.features, X)
    np.testing.assert_array_equal(loaded.labels, Y)
    assert (loaded.name, loaded.dense, loaded.rows, loaded.labels.dtype) == ("toy", True, None, np.int64)


def test_csr_stays_unscaled(tmp_path):
    loaded = data.load_npz(write(tmp_path, {**CSR, "train_idx": np.array([2, 0]), "test_idx": np.array([1])}))
    np.testing.assert_array_equal(loaded.features, [[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 0, 0]])
    np.testing.assert_array_equal(data.split(loaded, seed=0).x_train, [[0, 3, 0, 0], [1, 0, 2, 0]])


@pytest.mark.parametrize("seed", [0, 1])
def test_given_split(tmp_path, seed):
    part = data.split(data.load_npz(write(tmp_path, SPLIT)), seed)
    np.testing.assert_array_equal(part.y_train, Y[:30])
    np.testing.assert_array_equal(part.y_test, Y[30:])


def test_random_split_follows_the_seed(tmp_path):
    loaded = data.load_npz(write(tmp_path, DENSE))
    one, again, other = (data.split(loaded, seed).x_train for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_standardised_on_the_train_rows_alone(tmp_path):
    x = changed(X, np.s_[:, 0], 0.1)  # constant, with a mean that is not exact
    part = data.split(data.load_npz(write(tmp_path, {**SPLIT, "X": x})), seed=0)
    np.testing.assert_allclose(part.x_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(part.x_train.std(axis=0), [0, 1, 1, 1, 1], atol=1e-6)
    expected = (x[30:, 1:] - x[:30, 1:].mean(axis=0)) / x[:30, 1:].std(axis=0)
    np.testing.assert_allclose(part.x_test[:, 1:], expected, rtol=1e-4, atol=1e-5)


BAD = {
    "no X": ({"Y": Y}, "`X` is missing, or for sparse features one of X_data, X_indices, X_indptr, X_shape"),
    "no indptr": ({key: CSR[key] for key in CSR if key != "X_indptr"}, "`X` is missing"),
    "no Y": ({"X": X}, "`Y` is missing"),
    "X of one axis": ({**DENSE, "X": X[0]}, "`X` must have shape (rows, features), but has (5,)"),
    "X of text": ({**DENSE, "X": X.astype(str)}, "`X` must hold real numbers, but has dtype <U32"),
    "X pickled": ({**DENSE, "X": X.astype(object)}, "`X` must be a plain array of numbers, but NumPy says: Object arrays"),
    "X nan": ({**DENSE, "X": changed(X, (7, 2), np.nan)}, "`X` must be finite in float32, but is not at row and column [7, 2]"),
    "X beyond float32": ({**DENSE, "X": changed(X.astype(float), (0, 0), 1e300)}, "`X` must be finite in float32"),
    "row counts": ({**DENSE, "Y": Y[:-1]}, "`X` and `Y` must have as many rows, two or more, but have (40, 39)"),
    "one row": ({"X": X[:1], "Y": Y[:1]}, "`X` and `Y` must have as many rows, two or more, but have (1, 1)"),
    "Y of one class": ({**DENSE, "Y": Y[:, :1]}, "`Y` must have shape (rows, two classes or more), but has (40, 1)"),
    "Y of ids": ({**DENSE, "Y": Y * 5}, "`Y` must hold only 0 and 1, but holds 5"),
    "Y nan": ({**DENSE, "Y": changed(Y.astype(float), (0, 0), np.nan)}, "`Y` must hold only 0 and 1, but holds nan"),
    "indices too high": ({**CSR, "X_indices": np.array([0, 4, 1])}, "`X_indices` must lie from 0 to 3, but holds 4"),
    "indices negative": ({**CSR, "X_indices": np.array([0, -1, 1])}, "`X_indices` must lie from 0 to 3, but holds -1"),
    "indices real": ({**CSR, "X_indices": np.zeros(3)}, "`X_indices` must be a 1-D array of integers, but is float64"),
    "indices too few": ({**CSR, "X_indices": np.zeros(2, int)}, "`X_data` (3,) and `X_indices` (2,) must be equally long"),
    "indptr falls": ({**CSR, "X_indptr": np.array([0, 2, 1, 3])}, "`X_indptr` must climb from 0 to 3 in 3 steps"),
    "shape of 3": ({**CSR, "X_shape": np.array([3, 4, 1])}, "`X_shape` must be (rows, features), but is [3, 4, 1]"),
    "shape too large": ({**CSR, "X_shape": np.array([3, 2**60])}, "`X_shape` [3, 1152921504606846976] is too large"),
    "half a split": ({**DENSE, "train_idx": np.arange(9)}, "must come together, but there is only `train_idx`"),
    "split empty": ({**SPLIT, "test_idx": np.arange(0)}, "`test_idx` must name at least one row, but is empty"),
    "split too high": ({**SPLIT, "test_idx": np.array([40])}, "`test_idx` must lie from 0 to 39, but holds 40"),
    "split overlaps": ({**SPLIT, "test_idx": np.array([29])}, "must name a row once at most, but repeat 29"),
    "text": (b"a,b\n1,2\n", "the file is not an .npz archive"),
    "empty": (b"", "the file is not an .npz archive"),
    "half a zip": (b"PK\x03\x04half", "the file is not an .npz archive"),
    "lone array": (saved(np.save, X), "the file is not an .npz archive"),
    "damaged": (saved(np.savez, **DENSE).replace(X.tobytes()[:8], b"\0" * 8), "but NumPy says: Bad CRC-32"),
}  # fmt: skip


def assert_refused(code, errors, sentence):
    assert code == 2
    assert sentence in errors
    assert re.fullmatch(r"demo\.py: [^\n]*[^.\n]\.\n", errors)  # one line, one full stop at its end


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_bad_data(tmp_path, capsys, content, sentence):
    code = demo.main(["--data", str(write(tmp_path, content))])
    assert_refused(code, capsys.readouterr().err, sentence)


def run_demo(folder, *arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}
    command = [sys.executable, demo.__file__, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)


def test_missing_file(tmp_path):
    done = run_demo(tmp_path, "--data", "nowhere.npz")
    assert_refused(done.returncode, done.stderr, "nowhere.npz: the file cannot be opened (No such file or directory)")


def test_missing_framework(monkeypatch, capsys):
    """What it says to install is the clone: nothing of this name need be on an index, nor be this project."""
    monkeypatch.setitem(sys.modules, "train_jax", None)
    code = demo.main(["--framework", "jax"])
    assert_refused(code, capsys.readouterr().err, "in a clone, pip install '.[jax]' flax optax.")


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--epochs", "x"], ["--output", "no/such/a.png"]], ids=str)
def test_bad_arguments(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        demo.main(arguments)
    assert f"argument {arguments[0]}: must be " in capsys.readouterr().err


def test_metrics_by_hand():
    truth = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    logits = np.array([[-1.0, -2.0, 1.0, -9.0], [1.0, 0.5, -2.0, -9.0], [-1.0, -2.0, -3.0, -9.0]])
    subset, example, micro = 2 / 3, (0 + 1 + 1) / 3, 4 / 6  # the last row is right to be empty
    macro = (2 / 3 + 1 + 0) / 3  # the last class is nowhere
    precision, ranking_loss = (1 / 2 + 1 + 1) / 3, (1 / 3 + 0 + 0) / 3
    expected = [subset, example, micro, macro, precision, ranking_loss]
    np.testing.assert_allclose(report.measure(truth, logits, logits > 0), expected)


def runs_of(*scores):
    return {name: report.Runs([[0.1, 0.2]] * len(s), list(np.array(s))) for name, s in zip(demo.LOSSES, scores, strict=True)}  # fmt: skip


def test_verdict_falls_as_the_numbers_do():
    zlpr = [[0.5, 0.5, 0.5, 0.3, 0.5, 0.2], [0.5, 0.5, 0.5, 0.5, 0.5, 0.2]]
    bce = [[0.4, 0.6, 0.5, 0.3, 0.4, 0.1], [0.4, 0.6, 0.5, 0.4, 0.4, 0.1]]
    better, worse = "3 (subset accuracy, macro F1, average precision)", "2 (example F1, ranking loss)"
    rest = " of the six metrics, neither on 1 (micro F1); the mean difference exceeds its standard deviation over 2 seeds on 4 (subset accuracy, example F1, average precision, ranking loss)."  # fmt: skip
    assert report.verdict(runs_of(zlpr, bce), "Toy") == f"Toy: ZLPR is better on {better} and BCE on {worse}{rest}"
    assert report.verdict(runs_of(bce, zlpr), "Toy") == f"Toy: ZLPR is better on {worse} and BCE on {better}{rest}"


def test_verdict_of_one_seed():
    sentence = report.verdict(runs_of([[1, 1, 1, np.nan, 1, 0]], [[0, 0, 0, np.nan, 0, 1]]), "Toy")
    assert "BCE on none of the six metrics, neither on 1 (macro F1); one seed does not tell" in sentence


def test_figure_of_one_seed(tmp_path):
    report.draw(tmp_path / "figure", runs_of([[0.5] * 6], [[0.4] * 6]), "Toy")
    assert (tmp_path / "figure").read_bytes().startswith(PNG)


@pytest.mark.parametrize("framework", ["torch", "jax", "keras"])
def test_end_to_end(tmp_path, framework):
    write(tmp_path, SPLIT)
    done = run_demo(tmp_path, "--framework", framework, "--data", "toy.npz", "--seeds", "2", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    for metric in ("subset accuracy", "example F1", "micro F1", "macro F1", "average precision", "ranking loss"):
        assert metric in done.stdout
    assert "mean ± standard deviation over 2 seeds" in done.stdout
    assert f"Figure: demo-{framework}.png" in done.stdout
    assert re.search(rf"toy with {framework}: ZLPR is better on .* and BCE on .* of the six metrics", done.stdout)
    assert (tmp_path / f"demo-{framework}.png").read_bytes().startswith(PNG)


def test_a_student_comes_near_its_teacher():
    """On data that a small student can hold."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    y = (x[:, :3] > 0).astype(np.int64)
    result = distillation.distil(data.Split(x[:160], y[:160], x[160:], y[160:]), epochs=10)
    assert result["after"] < 0.1 * result["before"]
    assert result["student"] > 0.6
