"""PyTorch as users call it, on a CPU and on a GPU, and "torch-plain", the formula that `torch.func` and exports take."""

import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import zlpr_torch
from harness.base import Backend, UnavailableError, as_numpy, widened


class Watch(TorchDispatchMode):
    """Looks at everything that an operation makes, as people do who are after a NaN."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in UNWATCHED and not func.is_view:
            for x in made if isinstance(made, (tuple, list)) else (made,):
                if isinstance(x, torch.Tensor) and x.is_floating_point() and not x.isfinite().all():
                    msg = f"NaN or infinity made by {func}"
                    raise FloatingPointError(msg)
        return made


WRITTEN = {"scalar_tensor", "lift_fresh", "lift_fresh_copy", "full"}
UNWATCHED = WRITTEN | {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "index_put_"}
"""Of the first a NaN is one that somebody wrote down, and the others return memory that nobody has written yet."""


class Torch(Backend):
    name = "torch"
    package = zlpr_torch
    impl = "auto"
    device = "cpu"
    watched = False
    """Whether alarms look at every operation: they would see the kernels as one, and these have a test of their own."""
    dialect = {
        "logits": "input",
        "targets": "target",
        "logits1": "input1",
        "logits2": "input2",
        "axis": "dim",
        "where": "mask",
    }

    def native(self, values, dtype):
        if dtype == "bfloat16":
            return torch.from_numpy(np.asarray(values, np.float64)).to(self.device, torch.bfloat16)
        return torch.from_numpy(np.ascontiguousarray(as_numpy(values, dtype))).to(self.device)

    def numpy(self, tensor):
        tensor = tensor.detach()
        return widened((tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy())

    def dtype_name(self, tensor):
        return str(tensor.dtype).removeprefix("torch.")

    def call(self, name, arrays, options):
        options = {self.dialect.get(option, option): value for option, value in options.items()}
        own = {"reduction": "none", "impl": self.impl}
        options |= {option: value for option, value in own.items() if option in self.own_options(name)}
        return self.function(name)(*arrays, **options)

    @contextmanager
    def alarms(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection has been enabled", UserWarning)
            with torch.autograd.detect_anomaly(), Watch() if self.watched else nullcontext():
                yield

    def own_options(self, name):
        reduction = {} if name == "zlpr_terms" else {"reduction": "mean"}
        impl = {"impl": "auto"} if name in ("zlpr", "sparse_zlpr") else {}
        group = {"group": None} if name in ("zlpr", "sparse_zlpr") else {}
        ids = {"class_range": None} if name == "sparse_zlpr" else {}
        return super().own_options(name) | reduction | impl | group | ids

    def helper(self, name):
        function = super().helper(name)
        return lambda *arrays, **options: function(
            *arrays, **{self.dialect.get(option, option): value for option, value in options.items()}
        )

    def gradient(self, function, x):
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]

    def value_and_gradients(self, function, tensors):
        moved = {name: x.detach().requires_grad_() for name, x in tensors.items()}
        values = function(moved)
        return values, dict(zip(moved, torch.autograd.grad(values.sum(), list(moved.values())), strict=True))

    def jvp(self, function, x, tangent):
        return torch.func.jvp(function, (x,), (tangent,))[1]

    def hvp(self, function, x, tangent):
        x = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x), x, create_graph=True)
        return torch.autograd.grad(slope, x, tangent)[0]


class PlainTorch(Torch):
    name = "torch-plain"
    impl = "plain"
    watched = True

    def spares(self, dtype, mode):
        return True


class CudaTorch(Torch):
    name = "torch-cuda"
    device = "cuda"
    reads_ids = False


finds_gpu = torch.cuda.is_available


def make(name):
    if name == "torch-cuda" and not finds_gpu():
        msg = f"The backend 'torch-cuda' needs a GPU, and PyTorch {torch.__version__} finds none here."
        raise UnavailableError(msg)
    return {"torch": Torch, "torch-plain": PlainTorch, "torch-cuda": CudaTorch}[name]()
