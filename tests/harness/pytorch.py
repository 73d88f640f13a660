"""PyTorch: as it comes, and by plain composition, which transformed and compiled code sees."""

import numpy as np
import torch

import zlpr_torch
from harness.base import ADAPTED, Backend, as_numpy, widened


class Torch(Backend):
    name = "torch"
    impl = "auto"

    def native(self, values, dtype):
        if dtype == "bfloat16":
            return torch.from_numpy(np.asarray(values, np.float64)).to(torch.bfloat16)
        return torch.from_numpy(np.ascontiguousarray(as_numpy(values, dtype)))

    def numpy(self, tensor):
        tensor = tensor.detach()
        return widened((tensor.double() if tensor.is_floating_point() else tensor).numpy())

    def dtype_name(self, tensor):
        return str(tensor.dtype).removeprefix("torch.")

    def call(self, name, arrays, options):
        reduction = {} if name == "zlpr_terms" else {"reduction": "none"}
        impl = {"impl": self.impl} if name in ("zlpr", "sparse_zlpr") else {}
        return getattr(zlpr_torch, ADAPTED.get(name, name))(*arrays, **_dialect(options), **reduction, **impl)

    def helper(self, name):
        function = getattr(zlpr_torch, name)
        return lambda *arrays, **options: function(*arrays, **_dialect(options))

    def gradient(self, function, x):
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]

    def jvp(self, function, x, tangent):
        return torch.func.jvp(function, (x,), (tangent,))[1]

    def hvp(self, function, x, tangent):
        x = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x), x, create_graph=True)
        return torch.autograd.grad(slope, x, tangent)[0]


def _dialect(options):
    names = {"axis": "dim", "where": "mask"}
    return {names.get(name, name): value for name, value in options.items()}


class PlainTorch(Torch):
    name = "torch-plain"
    impl = "plain"

    def spares(self, dtype, mode):
        return True


def make(name):
    return {"torch": Torch, "torch-plain": PlainTorch}[name]()
