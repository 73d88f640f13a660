"""Compile the kernels for a GPU that is not there, and print as JSON what came out: an own process, no interpreter.

``python compiled.py BACKEND ARCHITECTURE WARP_SIZE HOW`` where HOW is "pairwise", "kinds" or "shapes".
"""

import json
import re
import subprocess
import sys
import tempfile
import warnings

import torch
import triton
from combinations import called, kinds, pairwise, tensors_of
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from zlpr_core._options import Options
from zlpr_torch import _cuda, _triton_kernels
from zlpr_torch._layout import layout_of
from zlpr_torch._triton_plan import Device

ROWS = layout_of(2, (1,))
SHAPES = [(64, 20), (256, 1000), (512, 9605), (64, 100_000), (16, 1_000_000), (4096, 32_768), (8192, 131_072)]
PLAIN = [(dtype, kind, None, None, None, None) for dtype in ("bfloat16", "float32") for kind in ("bool", "soft")]


class Elsewhere:
    """Triton's driver for a GPU that is not in this machine."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def made(shape, dtype):
    """A tensor without memory: a compiler sees its dtype, strides and alignment."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def unlinked(assembly, *_):
    """What AMD's assembler gets, in place of a program: Triton below 3.5 looks for a linker that ROCm installs."""
    return assembly.encode()


def caught(kernel):
    """A list that a launch appends the compiled kernel to, instead of running it."""
    kernels, launch = [], kernel.run
    kernel.run = lambda *args, warmup, **kwargs: kernels.append(launch(*args, warmup=True, **kwargs))
    return kernels


def described(kernel):
    assembly = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
    binary = kernel.asm.get("cubin") or kernel.asm["hsaco"]
    return {"bytes": len(binary), **usage(kernel.asm, binary), "warps": kernel.metadata.num_warps, "assembly": assembly}


def usage(asm, binary):
    """Registers of a thread, and bytes of its memory, where registers spill to."""
    if "amdgcn" in asm:
        fields = {"stack": "private_segment_fixed_size", "registers": "vgpr_count"}
        return {key: int(re.search(rf"\.{field}: +(\d+)", asm["amdgcn"])[1]) for key, field in fields.items()}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [cuobjdump(), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", said)[1]) for key in ("REG", "STACK", "LOCAL"))
    return {"stack": stack + local, "registers": registers}


def cuobjdump():
    """NVIDIA's, which Triton brings; where it says so has changed with 3.4."""
    try:
        from triton import knobs

        return knobs.nvidia.cuobjdump.path
    except ImportError:
        from triton.backends.nvidia.compiler import _path_to_binary

        return _path_to_binary("cuobjdump")[0]


def report(calls, with_assembly):
    """By call and kernel, what came out of the compiler."""
    names = ("loss_kernel", "gradient_kernel", "mark_kernel")
    lists = {name: caught(getattr(_triton_kernels, name)) for name in names}
    for combination, shape in calls:
        logits, targets, options = tensors_of(combination, shape, made)
        cells = _cuda.cells_of(ROWS, logits, targets, Options(**options))
        number = torch.empty((), dtype=torch.int64, device="meta") if combination[2] else shape[0]
        _, residuals = _cuda.losses_of_rows(cells, number, with_gradient=True)
        _cuda.gradient_of_rows(cells, residuals, torch.empty((), device="meta"))
        _cuda.marked(made(shape, "bool"), made((shape[0], 5), "int64"), 0)
        found = {name: described(kernels.pop()) for name, kernels in lists.items()}
        if not with_assembly:
            [kernel.pop("assembly") for kernel in found.values()]
        yield f"{called(combination)} {shape[0]}x{shape[1]}", found


def calls_of(how):
    if how == "shapes":
        return [(combination, shape) for combination in PLAIN for shape in SHAPES]
    combinations = pairwise() if how == "pairwise" else kinds()
    return [(combination, SHAPES[i % len(SHAPES)]) for i, combination in enumerate(combinations)]


if __name__ == "__main__":
    warnings.simplefilter("error", RuntimeWarning)  # what does not compile is left to the plain formula with one
    backend, architecture, warp_size, how = sys.argv[1:]
    if backend == "hip":
        compiler = backends["amd"].compiler
        compiler.make_hsaco, compiler.hash = staticmethod(unlinked), lambda self: "unlinked"
    driver.set_active(
        Elsewhere(GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, int(warp_size)))
    )
    _cuda.device_of = lambda index: Device(132, 50 * 2**20, int(warp_size))
    print(json.dumps({"triton": triton.__version__, "calls": dict(report(calls_of(how), how == "shapes"))}))
