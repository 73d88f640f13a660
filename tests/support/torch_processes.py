"""Processes of one group on this machine, each of which runs a worker: ``python WORKER folder rank world``."""

import os
import subprocess
import sys
from signal import SIGABRT

import torch
from registry import ROOT

SUPPORT = ROOT / "tests" / "support"


def start(worker, folder, given, world):
    """Its complaints go to a file of each process."""
    torch.save(given, folder / "problem.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SUPPORT / worker), str(folder)]
    processes = []
    for rank in range(world):
        with (folder / f"said-{rank}.txt").open("w", encoding="utf-8") as said:
            processes.append(subprocess.Popen([*command, str(rank), str(world)], env=environment, stderr=said))
    return processes


def codes_of(worker, folder, given, world, tries=3):
    """How each ended. If one is aborted, as gloo's threads may (pytorch/gloo#514), all begin anew."""
    codes = [process.wait(120) for process in start(worker, folder, given, world)]
    if -SIGABRT in codes and tries > 1:
        (folder / "store").unlink(missing_ok=True)
        return codes_of(worker, folder, given, world, tries - 1)
    return codes


def run(worker, folder, given, world):
    """What each found."""
    assert not any(codes_of(worker, folder, given, world)), [
        (folder / f"said-{rank}.txt").read_text(encoding="utf-8") for rank in range(world)
    ]
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(world)]
