"""A pytest plugin by which a CPU passes for the GPU of "torch-cuda", as far as a test can tell one from the other.

The harness finds one; class ids are not read; and a tensor becomes an array by way of ``cpu()`` only. Numbers
are a CPU's. With it the tests themselves are tested where there is no GPU.
"""

import stand_in_compiled  # noqa: F401
import torch

import zlpr_torch._namespace

_to_array = torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.cpu
FETCHED = "fetched_by_cpu"


def _fetch(tensor):
    copy = _to_array[2](tensor).detach()
    setattr(copy, FETCHED, True)
    return copy


def _refusing(method):
    def refuse(tensor, *arguments, **options):
        if not hasattr(tensor, FETCHED):
            msg = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
            raise TypeError(msg)
        return method(tensor, *arguments, **options)

    return refuse


zlpr_torch._namespace.xp.readable = lambda x: False
torch.Tensor.cpu = _fetch
torch.Tensor.numpy, torch.Tensor.__array__ = map(_refusing, _to_array[:2])
