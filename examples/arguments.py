"""Arguments that several examples take."""

import argparse


def positive(text: str) -> int:
    """A number of seeds, epochs or rows."""
    if not text.isdecimal() or int(text) < 1:
        msg = f"must be a whole number from 1, but is {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
