"""Rows with sparse features and very many labels: made up with a structure to find, or read from a file."""

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from data import DataError

SHIFT = 100  # of Zipf's law, as Mandelbrot has it: without it a handful of labels would be on every second row
OWN, TOPICAL = 4, 2  # words of a label, and those of them that it has from its topic
SPOKEN, NOISE = 3, 5  # words that a row has of each of its labels, and words of no meaning
LABELS_OF_A_TOPIC, WORDS_OF_A_TOPIC, MOST_LABELS = 200, 6, 10
FEWEST = 5
HEADER = "the first line must be three whole numbers above 0: points, features, labels"


class Rows(NamedTuple):
    """Features and labels, a row after another; ``starts`` say where each row begins, and where the last ends."""

    words: np.ndarray  # int32, the features that are not 0
    values: np.ndarray  # float32, of these
    word_starts: np.ndarray
    labels: np.ndarray  # int32, no label twice in a row
    label_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.label_starts) - 1

    def words_of(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words, values and where each row begins, as an ``EmbeddingBag`` takes them."""
        places, starts = _places(self.word_starts, chosen)
        return self.words[places], self.values[places], starts[:-1]

    def labels_of(self, chosen: np.ndarray) -> np.ndarray:
        """Ids, [rows, the most that a row has], filled up with -1."""
        places, starts = _places(self.label_starts, chosen)
        counts = np.diff(starts)
        ids = np.full((len(chosen), max(counts.max(initial=0), 1)), -1)
        ids[np.arange(ids.shape[1]) < counts[:, None]] = self.labels[places]
        return ids

    def some(self, chosen: np.ndarray) -> "Rows":
        """Some rows, in this order."""
        words, word_starts = _places(self.word_starts, chosen)
        labels, label_starts = _places(self.label_starts, chosen)
        return Rows(self.words[words], self.values[words], word_starts, self.labels[labels], label_starts)


class Corpus(NamedTuple):
    """What a model trains on and is tested on."""

    name: str
    features: int
    labels: int
    train: Rows
    test: Rows


def check(corpus: Corpus) -> None:
    """Raise where no score could be had."""
    if corpus.labels < FEWEST:
        msg = f"precision at {FEWEST} needs {FEWEST} labels or more, but there are {corpus.labels}."
        raise DataError(msg)
    if not len(corpus.test.labels):
        msg = "no row to test on has a label."
        raise DataError(msg)


def _places(starts: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of these rows are, and where each row begins once they stand together."""
    counts = starts[chosen + 1] - starts[chosen]
    new = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(new[-1]) + np.repeat(starts[chosen] - new[:-1], counts), new


# --- made up ------------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """How labels, topics and words hang together. A label's words are its embedding, which a model has to find."""

    frequency: np.ndarray  # of each label among all labels of all rows: Zipf's law, in an order of chance
    topic: np.ndarray  # of each label
    words: np.ndarray  # of each label, [labels, OWN + TOPICAL]
    features: int


def make(*, labels: int, rows: int, test_rows: int, seed: int) -> Corpus:
    """Rows that speak of a topic in the words of some of its labels, and in others."""
    rng = np.random.default_rng(seed)
    world = plant(labels, features=max(labels // 16, 1000), rng=rng)
    return Corpus("made up", world.features, labels, draw(world, rows, rng), draw(world, test_rows, rng))


def plant(labels: int, *, features: int, rng: np.random.Generator) -> World:
    """A world."""
    topics = max(labels // LABELS_OF_A_TOPIC, 2)
    weight = 1 / (np.arange(labels) + SHIFT)
    topic = rng.integers(topics, size=labels)
    topical = rng.integers(features, size=(topics, WORDS_OF_A_TOPIC))
    shared = topical[topic[:, None], rng.integers(WORDS_OF_A_TOPIC, size=(labels, TOPICAL))]
    own = rng.integers(features, size=(labels, OWN))
    return World(rng.permutation(weight / weight.sum()), topic, np.concatenate([own, shared], 1), features)


def draw(world: World, rows: int, rng: np.random.Generator) -> Rows:
    """Rows of such a world."""
    row, labels = _draw_labels(world, rows, rng)
    spoken = world.words[labels[:, None], rng.integers(OWN + TOPICAL, size=(len(labels), SPOKEN))]
    words = np.concatenate([spoken.ravel(), rng.integers(world.features, size=rows * NOISE)])
    of_row = np.concatenate([np.repeat(row, SPOKEN), np.repeat(np.arange(rows), NOISE)])
    words = words[np.argsort(of_row, kind="stable")].astype(np.int32)
    word_starts, label_starts = (np.append(0, np.cumsum(np.bincount(r, minlength=rows))) for r in (of_row, row))
    return Rows(words, np.ones(len(words), np.float32), word_starts, labels.astype(np.int32), label_starts)


def _draw_labels(world: World, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their labels, by frequency: the first of a row among all, the others among those of its topic."""
    row = np.repeat(np.arange(rows), np.minimum(1 + rng.poisson(MOST_LABELS / 2, rows), MOST_LABELS))
    order = np.argsort(world.topic, kind="stable")
    below = np.append(0, np.cumsum(world.frequency[order]))  # how frequent those before it are together
    edges = below[np.searchsorted(world.topic[order], np.arange(world.topic.max() + 2))]
    first = _by_chance(order, below, np.zeros(rows), np.full(rows, below[-1]), rng)
    topic = world.topic[first][row]
    labels = _by_chance(order, below, edges[topic], edges[topic + 1], rng)
    labels[np.searchsorted(row, np.arange(rows))] = first
    return np.divmod(np.unique(row * len(order) + labels), len(order))


def _by_chance(
    order: np.ndarray, below: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A label for each pair of bounds, between which ``below`` has to be."""
    found = np.searchsorted(below, rng.uniform(low, high), side="right") - 1
    return order[np.minimum(found, len(order) - 1)]


# --- read ---------------------------------------------------------------------------------------------------------


def load(train: Path, test: Path | None, *, seed: int) -> Corpus:
    """Files of the Extreme Classification Repository; without one to test on a tenth of the rows is set aside."""
    rows, features, labels = read(train)
    if test is not None:
        others, *sizes = read(test)
        if sizes != [features, labels]:
            _refuse(test, f"must have the {features} features and {labels} labels of {train}, but has {sizes}")
        return Corpus(train.stem, features, labels, rows, others)
    order = np.random.default_rng(seed).permutation(len(rows))
    aside = math.ceil(len(rows) / 10)
    if aside == len(rows):
        _refuse(train, "one row is too few to set some aside; pass --test FILE")
    return Corpus(train.stem, features, labels, rows.some(order[aside:]), rows.some(order[:aside]))


def read(path: Path) -> tuple[Rows, int, int]:
    """Rows, and the numbers of features and labels. A line is ``label,label feature:value feature:value``."""
    lines = _lines(path)
    points, features, labels = _header(path, next(lines, ""))
    words, values, ids = array("i"), array("f"), array("i")
    starts = [(0, 0)]
    for number, line in enumerate(lines, 2):
        try:
            row, found, of_found = _row(line, features, labels)
        except ValueError as problem:
            _refuse(f"{path}, line {number}", str(problem))
        words.extend(found)
        values.extend(of_found)
        ids.extend(row)
        starts.append((len(words), len(ids)))
    if len(starts) != points + 1:
        _refuse(path, f"the first line says {points} points, but {len(starts) - 1} lines follow")
    word_starts, label_starts = np.array(starts).T
    return Rows(*map(np.asarray, (words, values, word_starts, ids, label_starts))), features, labels


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except OSError as problem:
        _refuse(path, f"the file cannot be opened ({problem.strerror or problem})")
    except UnicodeDecodeError:
        _refuse(path, "the file must be text in UTF-8")


def _header(path: Path, line: str) -> list[int]:
    sizes = [int(cell) for cell in line.split() if cell.isdecimal()]
    if len(sizes) != 3 or len(line.split()) != 3 or not all(sizes):
        _refuse(path, f"{HEADER}, but is {line.strip()[:60]!r}")
    return sizes


def _row(line: str, features: int, labels: int) -> tuple[list[int], list[int], list[float]]:
    """Labels, features and their values. A row without labels begins with a space, or with its first feature."""
    first, _, rest = line.partition(" ")
    if ":" in first:
        first, rest = "", line
    ids = list(dict.fromkeys(_below(labels, "label", cell) for cell in first.strip().split(",") if first.strip()))
    pairs = [cell.partition(":") for cell in rest.split()]
    return ids, [_below(features, "feature", pair[0]) for pair in pairs], [_number(*pair) for pair in pairs]


def _below(size: int, what: str, cell: str) -> int:
    if not cell.isdecimal() or int(cell) >= size:
        msg = f"a {what} must be a whole number from 0 to {size - 1}, but is {cell!r}"
        raise ValueError(msg)
    return int(cell)


def _number(feature: str, _: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not abs(number) < 3e38:  # of float32
        msg = f"feature {feature} must have a finite value after a colon, but has {value!r}"
        raise ValueError(msg)
    return number


def _refuse(place: object, problem: str) -> NoReturn:
    msg = f"{place}: {problem}."
    raise DataError(msg) from None
