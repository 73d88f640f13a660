"""Calls that differ in what the kernels are compiled for: dtypes, kinds of targets, and the form of each option."""

from itertools import cycle, product

DTYPES = ("float16", "bfloat16", "float32", "float64")
TARGETS = ("bool", "int64", "soft")
FORMS = (None, "number", "row", "column", "full")
FACTORS = (DTYPES, TARGETS, (None, "row", "column", "full"), FORMS, FORMS, FORMS)


def pairwise():
    """25 in which every two values of every two factors come together: the lines of the plane over five elements."""
    for a, b in product(range(5), repeat=2):
        levels = (a, b, a + b, a + 2 * b, a + 3 * b, a + 4 * b)
        yield tuple(values[level % 5 % len(values)] for values, level in zip(FACTORS, levels, strict=True))


def every():
    """All 6 000."""
    return product(*FACTORS)


def kinds():
    """648 that a compiler could tell apart: each option absent, a number or a tensor, of which the forms take turns."""
    forms = cycle(("row", "column", "full"))
    masks, options = (None, "tensor"), (None, "number", "tensor")
    for combination in product(DTYPES, TARGETS, masks, options, options, options):
        yield tuple(next(forms) if form == "tensor" else form for form in combination)


def called(combination):
    return " ".join(form or "-" for form in combination)


def tensors_of(combination, shape, make, number=0.3):
    """Logits, targets, and a dict of options. ``make`` gets a shape and a dtype: what is in there does not matter here."""
    dtype, target, *forms = combination
    shapes = {"row": (1, shape[1]), "column": (shape[0], 1), "full": shape}
    names = ("where", "weight", "pos_weight", "threshold")
    options = {
        name: number if form == "number" else make(shapes[form], "bool" if name == "where" else dtype)
        for name, form in zip(names, forms, strict=True)
        if form
    }
    return make(shape, dtype), make(shape, dtype if target == "soft" else target), options
