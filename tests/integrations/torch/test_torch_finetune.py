"""The example that fine-tunes a text model: what it reads and refuses, and a whole run with a tiny encoder made up here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from rich.console import Console
from sklearn.metrics import f1_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch_page import from_page
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

import finetune_text
import report
import text_data
import text_trainer
from data import DataError
from text_data import Layout

NAMES = ["joy", "anger", "fear", "love"]
CELLS = Layout("text", ["labels"], header=True, separator=",")
TICKS = CELLS._replace(labels=["joy:love"])
BARE = Layout("0", ["1"], header=False, separator=",")


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def loaded(path, layout, names=None, others=(None, None)):
    return text_data.load(path, list(others), layout, names=names, seed=0)


# --- reading ------------------------------------------------------------------------------------------------------

READ = {
    "names": ("a.csv", CELLS, ["id,text,labels", '1,one,"love,joy"', "2,two,anger", "3,three,", '4,"four, and",fear']),
    "ids": ("a.tsv", BARE, ["one\t0,3\tx", "two\t1\tx", "three\t\tx", '"four, and"\t2\tx']),
    "one column a label": ("a.csv", TICKS, ["text,joy,anger,fear,love", "one,1,0,0,1", "two,0,True,0,0", "three,0,0,0,0", '"four, and",0,0,1.0,0']),
    "lists of pandas": ("a.csv", CELLS, ["text,labels", "one,\"['love', 'joy']\"", "two,['anger']", "three,[]", '"four, and",[fear]']),
    "another separator": ("a.csv", CELLS._replace(separator="|"), ["text,labels", "one,love| joy", "two,anger", "three,", '"four, and",fear|']),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_every_layout_is_read(tmp_path, kind):
    file, layout, lines = READ[kind]
    path, names = write(tmp_path / file, *lines), write(tmp_path / "names.txt", *NAMES)
    assert [row.text for row in text_data.read(path, layout)[1]] == ["one", "two", "three", "four, and"]
    corpus = loaded(path, layout, names, [path, path])
    assert corpus.classes == NAMES
    np.testing.assert_array_equal(corpus.test.labels, [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])


def test_without_names_the_classes_are_those_of_the_training_file(tmp_path):
    words = write(tmp_path / "a.csv", "text,labels", '1,"love,joy"', "2,anger")
    assert loaded(words, CELLS, others=[words, words]).classes == ["anger", "joy", "love"]
    numbers = write(tmp_path / "b.csv", "text,labels", '1,"10,9"', "2,0")
    assert loaded(numbers, CELLS, others=[numbers, numbers]).classes == ["0", "9", "10"]


def test_rows_are_set_aside_by_the_seed(tmp_path):
    path = write(tmp_path / "a.csv", "text,labels", *(f"{i},{'ab'[i % 2]}" for i in range(95)))
    corpus = loaded(path, CELLS)
    parts = [part.texts for part in corpus[1:]]
    assert [len(part) for part in parts] == [75, 10, 10]
    assert sorted((text for part in parts for text in part), key=int) == [str(i) for i in range(95)]
    assert all(row.tolist() == [1 - int(text) % 2, int(text) % 2] for text, row in zip(*corpus.test, strict=True))
    assert loaded(path, CELLS).test.texts == parts[2]
    assert text_data.load(path, [None, None], CELLS, names=None, seed=1).test.texts != parts[2]


REFUSED = {
    "no file": ("no.csv", CELLS, None, "no.csv: the file cannot be opened (No such file or directory)"),
    "empty": ("a.csv", CELLS, [], "a.csv: the file is empty"),
    "header alone": ("a.csv", CELLS, ["text,labels"], "a.csv: there is no row below the header"),
    "no text": ("a.csv", CELLS, ["body,labels", "x,a"], "a.csv: there is no column 'text'; the first line has body, labels"),
    "no label": ("a.csv", TICKS, ["text,joy", "x,1"], "a.csv: there is no column 'love'; the first line has text, joy"),
    "no header": ("a.tsv", BARE._replace(header=True), ["x" * 90 + " y zzzzzzz\t1"], f"a.tsv: there is no column '0'; the first line has {'x' * 90} y ...; if that is no header, say --no-header"),
    "no number": ("a.tsv", BARE, ["x", "y"], "a.tsv: there is no column '1'; they are numbered 0 to 0"),
    "cells": ("a.csv", CELLS, ["text,labels", "x, and y,a"], "a.csv, line 2: there must be 2 cells, but there are 3"),
    "open quote": ("a.tsv", BARE, ['"x\ta', 'y"z\tb'], "a.tsv, line 2: a quotation mark is not closed"),
    "not 0 or 1": ("a.csv", TICKS, ["text,joy,love", "x,1,2"], "a.csv, line 2: column 'love' must be 0 or 1, but is '2'"),
    "one class": ("a.csv", CELLS, ["text,labels", "x,a", "y,a"], "a.csv: there must be two labels or more, but there are 1"),
    "too few rows": ("a.csv", CELLS, ["text,labels", "x,a", "y,b"], "a.csv: too few rows to set some aside"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "layout", "lines", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_data(tmp_path, monkeypatch, file, layout, lines, sentence):
    monkeypatch.chdir(tmp_path)
    if lines is not None:
        write(Path(file), *lines)
    with pytest.raises(DataError, match=rf"^{re.escape(sentence)}.*\.$"):
        loaded(Path(file), layout)


def test_a_label_that_is_not_in_training(tmp_path):
    train = write(tmp_path / "a.csv", "text,labels", "x,a", "y,b")
    test = write(tmp_path / "b.csv", "text,labels", "x,a", "y,c")
    with pytest.raises(
        DataError, match=r"b\.csv, line 3: the label 'c' is neither in the training file nor in --names\."
    ):
        loaded(train, CELLS, others=[train, test])
    assert loaded(train, CELLS, write(tmp_path / "names", *"abc"), [train, test]).test.labels.tolist() == [
        [1, 0, 0],
        [0, 0, 1],
    ]
    with pytest.raises(DataError, match=r"names: every name must stand there once, but a does not\."):
        loaded(train, CELLS, write(tmp_path / "names", *"aba"))


def test_other_encodings(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,labels\r\n\xc3\xa9,a\r\nx,b\r\n")
    assert [row.text for row in text_data.read(path, CELLS)[1]] == ["é", "x"]
    path.write_bytes("text,labels\né,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="must be UTF-8"):
        text_data.read(path, CELLS)


# --- losses and thresholds ----------------------------------------------------------------------------------------


def test_the_losses_are_those_of_their_papers():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(6, 5)), rng.integers(2, size=(6, 5))
    p = 1 / (1 + np.exp(-logits))
    right, clipped = np.where(labels, p, 1 - p), np.maximum(p - 0.05, 0)
    negative = clipped**4 * np.log(1 - clipped)
    expected = {
        "zlpr": np.log1p((labels * np.exp(-logits)).sum(-1)) + np.log1p(((1 - labels) * np.exp(logits)).sum(-1)),
        "bce": -np.log(right).mean(-1),
        "focal": -((1 - right) ** 2 * np.log(right)).mean(-1),
        "asymmetric": -np.where(labels, np.log(p), negative).mean(-1),
    }
    assert expected.keys() == text_trainer.LOSSES.keys() == finetune_text.LOSSES.keys()
    for name, loss in text_trainer.LOSSES.items():
        got = loss(torch.tensor(logits), torch.tensor(labels))
        np.testing.assert_allclose(got, expected[name], rtol=1e-10, err_msg=name)
        far = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss(far, torch.tensor([[0, 1]])).sum().backward()
        assert far.grad.isfinite().all(), name


def test_the_recipe_of_the_page_is_what_runs():
    torch.manual_seed(0)
    outputs, labels = SequenceClassifierOutput(logits=torch.randn(4, 3)), torch.randint(2, (4, 3))
    zlpr = text_trainer.LOSSES["zlpr"]
    for cells in (None, 24):
        expected = from_page("compute_loss")(outputs, labels, cells)
        torch.testing.assert_close(text_trainer.compute_loss(zlpr, outputs, labels, cells), expected)


@pytest.mark.parametrize("digits", [9, 0], ids=["all logits differ", "many are equal"])
def test_no_threshold_is_better(digits):
    """Tried at every logit, just below it, and beyond the ends."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=60)
    logits = (truth + 1.5 * rng.normal(size=60)).round(digits)
    tried = [logits.min() - 1, *logits]
    best = max(f1_score(truth, logits > threshold) for threshold in tried)
    assert f1_score(truth, logits > finetune_text.best_threshold(logits, truth)) == pytest.approx(best)


def test_few_positives_have_the_shared_threshold():
    logits = np.array([[2.0, 3.0], [1.0, 1.0], [0.5, 0.5], [0.4, 0.0], [0.3, -1.0], [-1.0, -2.0]])
    labels = np.array([[1, 1], [1, 0], [1, 0], [1, 0], [1, 0], [0, 0]])
    zero, shared, each = finetune_text.tune(logits, labels).values()
    assert zero == 0
    assert each == pytest.approx([-0.35, shared.item()])


# --- a whole run --------------------------------------------------------------------------------------------------

WORDS = [f"word{i}" for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, and files as GoEmotions has them: no header, a text, ids, and an id of the comment."""
    path = tmp_path_factory.mktemp("text")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS, *NAMES])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 16}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path / "bert-base-cased")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    limits = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "initializer_range": 0.2}
    BertModel(BertConfig(**size, **limits)).save_pretrained(path / "bert-base-cased")
    rng = np.random.default_rng(0)
    for name, rows in (("train", 400), ("dev", 80), ("test", 80)):
        write(path / f"{name}.tsv", *(line(rng, 40 if row == 0 else 3) for row in range(rows)))
    write(path / "emotions.txt", *NAMES)
    return path


def line(rng, length):
    """A text that says its labels."""
    ids = np.flatnonzero(rng.random(len(NAMES)) < 0.3)
    words = rng.permutation([*rng.choice(WORDS, length), *np.array(NAMES)[ids]])
    return f"{' '.join(words)}\t{','.join(map(str, ids))}\tc"


def documented():
    """The arguments of the command on the page."""
    section = (pages.ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8").partition("## A text model")[2]
    (command,) = re.findall(r"^python examples/finetune_text\.py (.*?[^\\])$", section, flags=re.DOTALL | re.MULTILINE)
    return command.replace("\\\n", " ").split()


@pytest.fixture(scope="module")
def output(folder):
    """What the documented command prints, with a rate for a model that has learned nothing yet."""
    strict = ["--metric", "subset accuracy", "--patience", "3"]
    options = [*documented(), *strict, "--learning-rate", "1e-2", "--batch-size", "16", "--epochs", "30"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, finetune_text.__file__, *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_the_user_sees(output):
    assert re.match(
        r"4 labels, 1\.\d\d a text, \d\d% of the rows without any; rows: 400 train, 80 validation, 80 test\n", output
    )
    epochs = re.findall(
        r"^epoch (\d+): loss \d+\.\d{4}; validation: loss \d+\.\d{4}, subset accuracy (.*)$", output, re.MULTILINE
    )
    scores = [float(score) for _, score in epochs]
    best = scores.index(max(scores)) + 1
    assert f"kept: epoch {best}\n" in output
    assert len(epochs) == best + 3 < 30  # it stops early
    assert re.search(r"^threshold +0 +one, tuned +one a label, tuned", output, re.MULTILINE)
    for metric in report.METRICS:
        (row,) = re.findall(rf"^{metric}.*?((?: +\d\.\d{{3}}){{3}})$", output, re.MULTILINE)
        assert all(value < 0.1 if metric == "ranking loss" else value > 0.9 for value in map(float, row.split()))
    assert "Trained with ZLPR (zlpr " in output
    assert output.endswith("Model, thresholds and card: text-zlpr\n")


def test_what_it_leaves(folder, output):
    left = folder / "text-zlpr"
    assert not [path for path in left.iterdir() if path.is_dir()]  # no checkpoints
    card = (left / "README.md").read_text(encoding="utf-8")
    assert "# bert-base-cased, fine-tuned on train.tsv\n" in card
    assert re.search(r"^\| micro F1( \| \d\.\d{3}){3} \|$", card, re.MULTILINE)
    thresholds = json.loads((left / "thresholds.json").read_text(encoding="utf-8"))
    shared = thresholds["all labels"]
    assert list(thresholds["each label"]) == NAMES
    sentence = rf"above {shared:.2f}, a score of {1 / (1 + np.exp(-shared)):.2f}, or above the label's own threshold"
    assert " ".join(output.split()).count(sentence) == card.count(sentence) == 1


def test_a_pipeline_predicts_with_it(folder, output):
    """Its scores are above 0.5 where the logits are above 0."""
    read = pipeline("text-classification", model=str(folder / "text-zlpr"), top_k=None, device="cpu")
    ((*labels,),) = read(["word3 love word1 joy"])
    assert {label["label"] for label in labels if label["score"] > 0.5} == {"joy", "love"}


@pytest.mark.parametrize("loss", finetune_text.LOSSES)
def test_each_loss_learns_and_the_seed_decides(folder, tmp_path, monkeypatch, loss):
    monkeypatch.chdir(folder)
    logits = []
    for seed in (0, 0, 1):
        options = [*documented(), "--loss", loss, "--epochs", "3", "--batch-size", "16", "--learning-rate", "1e-2"]
        place = ["--seed", str(seed), "--output", str(tmp_path / str(len(logits)))]
        arguments = finetune_text.parse([*options, *place])
        corpus = finetune_text.read(arguments)
        logits.append(text_trainer.finetune(corpus, arguments, finetune_text.bar(Console()))[1])
    assert report.measure(corpus.test.labels, logits[0], logits[0] > 0)[4] > 0.8
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def assert_complains(capsys, arguments, sentence):
    assert finetune_text.main(arguments) == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(r"finetune_text\.py: [^\n]*[^.\n]\.\n", errors)
    assert sentence in errors


def test_complaints(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    place = ["--output", str(tmp_path / "new")]
    assert_complains(capsys, [*documented(), *place, "--text", "7"], "there is no column '7'")
    assert_complains(
        capsys, [*documented(), *place, "--model", str(folder)], "this folder cannot be loaded: Unrecognized model in"
    )
    assert_complains(
        capsys, [*documented(), *place, "--model", "./no"], "--model ./no: there is no such folder, and from"
    )
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert_complains(
        capsys, [*documented(), *place], "accelerate is missing: in a clone, pip install '.[torch]' --group text."
    )
    assert not (tmp_path / "new").exists()


def test_without_what_it_needs():
    """The first thing that is not there."""
    without = "import sys; sys.modules['rich'] = None; import finetune_text"
    command, place = [sys.executable, "-c", without], Path(finetune_text.__file__).parent
    done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == "finetune_text.py: rich is missing: in a clone, pip install '.[torch]' --group text.\n"


def test_a_folder_that_is_not_empty_stays(tmp_path, capsys):
    write(tmp_path / "kept")
    for output in (tmp_path, tmp_path / "kept"):
        with pytest.raises(SystemExit, match="2"):
            finetune_text.parse(["--model", "m", "--train", "t", "--output", str(output)])
        assert "argument --output: must be a new or an empty folder, but is" in capsys.readouterr().err
