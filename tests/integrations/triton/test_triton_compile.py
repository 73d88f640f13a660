"""The Triton kernels compile for GPUs that are not there: what a launch would run, by Triton's own compiler.

As a script, in a process without the interpreter: ``BACKEND ARCHITECTURE WARP_SIZE`` compiles, and prints JSON.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import pytest

TARGETS = {"sm_80": ("cuda", "80", "32"), "sm_90": ("cuda", "90", "32"), "gfx942": ("hip", "gfx942", "64")}
PROBLEMS = ("bool bfloat16", "soft float16", "soft float32 with options", "int64 float64")
KERNELS = ("_forward", "_backward")


def problems():
    """The arguments of a launch, by name. Only their shapes, dtypes and strides matter: nothing is computed."""
    import torch

    from zlpr_core._options import Options

    full, odd = (8, 8192), (8, 9605)
    mask, number, classes = torch.ones(odd, dtype=torch.bool), torch.ones(odd), torch.ones(odd[1]).expand(odd)
    arguments = (
        (torch.ones(full, dtype=torch.bfloat16), torch.ones(full, dtype=torch.bool), Options()),
        (torch.ones(full, dtype=torch.float16), torch.ones(full, dtype=torch.float16), Options()),
        (number, number, Options(mask, classes, classes, classes)),
        (number.double(), mask.long(), Options(threshold=0.3)),
    )
    return dict(zip(PROBLEMS, arguments, strict=True))


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


def report(target):
    """By problem and kernel, what came out of the compiler."""
    from triton.runtime import driver

    from zlpr_torch import _cuda

    driver.set_active(Elsewhere(target))
    made = {name: caught(getattr(_cuda, name)) for name in KERNELS}
    reports = {}
    for problem, arguments in problems().items():
        losses, residuals = _cuda.losses_of_rows(*arguments)
        _cuda.gradient_of_rows(*arguments, residuals, losses)
        reports[problem] = {name: described(kernels.pop()) for name, kernels in made.items()}
    return reports


def caught(kernel):
    """A list that a launch appends the compiled kernel to, instead of running it."""
    kernels, launch = [], kernel.run
    kernel.run = lambda *args, warmup, **kwargs: kernels.append(launch(*args, warmup=True, **kwargs))
    return kernels


def described(kernel):
    assembly = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
    binary = kernel.asm.get("cubin") or kernel.asm["hsaco"]
    return {"bytes": len(binary), "stack": stack(kernel.asm, binary), "assembly": assembly}


def stack(asm, binary):
    """Bytes of each thread's memory, where registers spill to."""
    from triton import knobs

    if "amdgcn" in asm:
        return int(re.search(r"\.private_segment_fixed_size: (\d+)", asm["amdgcn"])[1])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1])


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return request.param


@pytest.fixture(scope="module")
def reports(target, tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp(target)), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error:::triton", __file__, *TARGETS[target]]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_compiles_without_spilling(reports, problem, kernel):
    compiled = reports[problem][kernel]
    assert compiled["bytes"] > 0
    assert compiled["stack"] == 0


@pytest.mark.parametrize("target", ["sm_80", "sm_90"], indirect=True)
def test_moves_16_bytes_at_a_time_and_rounds_to_nearest(reports):
    """With aligned rows. bfloat16 rounds to nearest even, which the interpreter does not show."""
    forward, backward = (reports["bool bfloat16"][kernel]["assembly"] for kernel in KERNELS)
    narrow = r"ld\.global\S*\.b(8|16)\b"
    assert "ld.global.v4.b32" in forward
    assert not re.search(narrow, forward + backward)
    assert "st.global.v4.b32" in backward
    assert "cvt.rn.bf16x2.f32" in backward or "cvt.rn.bf16.f32" in backward


@pytest.mark.parametrize("target", ["sm_80", "sm_90"], indirect=True)
def test_no_barrier_in_a_loop(reports):
    """A barrier makes the threads of a program wait for each other: at the end of a row only, not at every block."""
    for problem in PROBLEMS:
        assembly = reports[problem]["_forward"]["assembly"]
        labels = {
            label: at.start() for at in re.finditer(r"^(\$L\S+):", assembly, re.MULTILINE) for label in at.groups()
        }
        back = [
            (labels[j[1]], j.start())
            for j in re.finditer(r"bra(?:\.uni)?\s+(\$L\w+);", assembly)
            if labels[j[1]] < j.start()
        ]
        assert len(back) >= 3, problem
        assert not any("bar.sync" in assembly[start:end] for start, end in back)


if __name__ == "__main__":
    from triton.backends.compiler import GPUTarget

    backend, architecture, warp_size = sys.argv[1:]
    print(
        json.dumps(report(GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, int(warp_size))))
    )
