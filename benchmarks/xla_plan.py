"""What XLA makes of the loss for an H100, on a machine without one: bytes moved, room set aside, conditions.

Needs ``pip install -c constraints.txt "jax[cuda12]"`` in an environment of its own, and no GPU.
"""

import os
import re
from collections.abc import Callable

os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

import jax
import optax
from cases import GPU, Case
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

from zlpr_jax import zlpr_loss

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 1 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000 device_memory_size: 84978434048
}
"""
BYTES = {"pred": 1, "s8": 1, "bf16": 2, "f16": 2, "s32": 4, "f32": 4, "f64": 8}
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$", flags=re.MULTILINE)
Loss = Callable[[jax.Array, jax.Array], jax.Array]
LOSSES: dict[str, Loss] = {"zlpr": zlpr_loss, "optax BCE": optax.sigmoid_binary_cross_entropy}


def main() -> None:
    """Print one line a case and loss."""
    jax.default_backend = lambda: "gpu"  # zlpr_jax asks for which of them it traces
    devices = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1").devices
    view = Table("shape", "targets", "dtype", "loss", "bytes a logit", "room / logits", "conditions")
    for case in GPU:
        for name, loss in LOSSES.items():
            program = compiled(loss, case, SingleDeviceSharding(devices[0]), hard=name == "zlpr")
            entry = program.as_text().partition("\nENTRY ")[2]
            room = program.memory_analysis().temp_size_in_bytes / (case.size * case.logit_bytes)
            cells = f"{moved(entry) / case.size:.1f}", f"{room:.2f}", str(entry.count(" conditional("))
            view.add_row(*list(case.describe().values())[:3], name, *cells)
    Console(width=100).print(view)


def compiled(loss: Loss, case: Case, where: SingleDeviceSharding, *, hard: bool) -> jax.stages.Compiled:
    """The mean and its gradient; optax takes floating targets."""
    kinds = case.dtype, "bool" if hard and not case.soft else case.dtype
    arrays = [jax.ShapeDtypeStruct(case.shape, kind, sharding=where) for kind in kinds]
    step = jax.jit(jax.value_and_grad(lambda s, t: loss(s, t).mean()))
    return step.trace(*arrays).lower(lowering_platforms=("cuda",)).compile()


def moved(entry: str) -> float:
    """Bytes that the kernels of a program read and write, those of the branch that is hardly ever taken left out."""
    found = {name: (kind, made, operands) for name, made, kind, operands in INSTRUCTION.findall(entry)}
    total = 0
    for kind, made, operands in found.values():
        if kind in ("fusion", "copy", "reduce", "custom-call"):
            read = [
                found[name][1] for name in re.findall(r"%([\w.\-]+)", operands.partition("), ")[0]) if name in found
            ]
            total += size(made) + sum(size(what) for what in read if not what.startswith("("))
    return total


def size(kind: str) -> int:
    """Bytes of an array, or of all in a tuple, by its type in XLA's words."""
    total = 0
    for name, sizes in re.findall(r"(\w+)\[([\d,]*)\]", kind):
        count = BYTES.get(name, 4)
        for length in filter(None, sizes.split(",")):
            count *= int(length)
        total += count
    return total


if __name__ == "__main__":
    main()
