"""The Triton kernels compile for GPUs that are not there: what a launch would run, by Triton's own compiler."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compiled.py")
TARGETS = {"sm_80": ("cuda", "80", "32"), "sm_90": ("cuda", "90", "32"), "sm_100": ("cuda", "100", "32"), "gfx942": ("hip", "gfx942", "64")}  # fmt: skip
KERNELS = ("loss_kernel", "gradient_kernel")  # of logits
WIDE = "bfloat16 bool - - - - 4096x32768"


def compiled(target, how, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *TARGETS[target], how]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["calls"]


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return request.param


@pytest.fixture(scope="module")
def shapes(target, tmp_path_factory):
    return compiled(target, "shapes", tmp_path_factory.mktemp(target))


def spilling(calls, allowed=0):
    return {
        f"{call} {name}": kernel["stack"]
        for call, kernels in calls.items()
        for name, kernel in kernels.items()
        if kernel["stack"] > allowed
    }


def test_no_shape_spills(shapes):
    """Registers to memory, at the block and the warps that are chosen for it."""
    assert len(shapes) == 28
    assert not spilling(shapes)


def test_no_program_has_more_threads_than_a_device_takes(target, shapes):
    warp_size = int(TARGETS[target][2])
    threads = {warp_size * kernels[name]["warps"] for kernels in shapes.values() for name in KERNELS}
    assert max(threads) == 1024
    assert min(threads) == warp_size


def test_every_two_values_of_every_two_options(target, tmp_path):
    """Compile together. To fit more programs ptxas puts a few numbers of the whole row aside, 8 to 24 bytes."""
    how = "kinds" if "ZLPR_TRITON_EVERY" in os.environ else "pairwise"
    calls = compiled(target, how, tmp_path)
    assert len(calls) == {"pairwise": 25, "kinds": 648}[how]
    assert all(kernels[name]["bytes"] > 0 for kernels in calls.values() for name in (*KERNELS, "mark_kernel"))
    assert not spilling(calls, allowed=32)


def lines_of(shapes, call, kernel):
    return shapes[call][kernel]["assembly"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"], indirect=True)
def test_moves_16_bytes_at_a_time_and_rounds_to_nearest(shapes):
    """With aligned rows. bfloat16 rounds to nearest even, which the interpreter does not show."""
    for kernel in KERNELS:
        assembly = lines_of(shapes, WIDE, kernel)
        moves = re.findall(r"(?:ld|st)\.global\S*", assembly)
        assert any("ld.global" in move and ".v4.b32" in move for move in moves)
        assert any("st.global" in move and ".v4.b32" in move for move in moves)
        assert not any(move.endswith((".b8", ".b16")) for move in moves)
        assert "cvt.rn.bf16x2.f32" in assembly or "cvt.rn.bf16.f32" in assembly
    policies = lines_of(shapes, WIDE, "loss_kernel")
    assert re.search(r"L[12]::evict_last", policies)  # Triton 3.3 names the level of the cache in another way
    assert re.search(r"L[12]::evict_first", policies)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"], indirect=True)
def test_no_barrier_in_a_loop(shapes):
    """A barrier makes the threads of a program wait for each other: at the end of a row only, not at every block."""
    for call in (WIDE, "float32 soft - - - - 4096x32768"):
        assembly = lines_of(shapes, call, "loss_kernel")
        labels = {at[1]: at.start() for at in re.finditer(r"^(\$L\S+):", assembly, re.MULTILINE)}
        jumps = [(labels[j[1]], j.start()) for j in re.finditer(r"bra(?:\.uni)?\s+(\$L\w+);", assembly)]
        back = [(start, end) for start, end in jumps if start < end]
        assert len(back) >= 4, call
        assert not any("bar.sync" in assembly[start:end] for start, end in back)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"], indirect=True)
def test_a_gradient_may_be_written_over_its_logits(shapes):
    """No load goes by the cache that takes memory for constant."""
    for call, kernels in shapes.items():
        for name in KERNELS:
            assert "ld.global.nc" not in kernels[name]["assembly"], (call, name)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"], indirect=True)
def test_marks_are_taken_back_before_others_are_set(shapes):
    """A barrier lies between the two stores."""
    assembly = lines_of(shapes, WIDE, "mark_kernel")
    places = [at.start() for at in re.finditer(r"st\.global", assembly)]
    barriers = [at.start() for at in re.finditer(r"bar(?:\.warp)?\.sync", assembly)]
    assert any(places[0] < barrier < places[-1] for barrier in barriers)
