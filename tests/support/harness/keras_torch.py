"""The Keras package's functions on Keras's PyTorch backend."""

from harness.keras_functions import KerasFunctions
from harness.pytorch import Torch


class KerasOnTorch(KerasFunctions, Torch):
    name = "keras-torch"


def make(name):
    return KerasOnTorch()
