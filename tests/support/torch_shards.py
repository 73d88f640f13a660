"""One process of a group that holds some of the classes: run by tests/integrations/torch/test_torch_sharded.py.

It reads the problem of all classes from a file, computes every form of the loss on its own slice, and writes what it
found: losses, gradients, and how often the processes had to exchange something.
"""

import sys
from contextlib import suppress
from datetime import timedelta

import torch
from torch import distributed
from torch.nn.functional import linear

from zlpr_torch import linear_zlpr_loss, sparse_linear_zlpr_loss, sparse_zlpr_loss, zlpr_loss

EXCHANGES = ("all_gather", "all_reduce")
BUDGET = 4 * 4 * 8 * 128  # a chunk of 128 classes


def counted():
    """A dict of how many bytes each exchange carried, which goes on counting."""
    calls = []
    for name in EXCHANGES:
        function = getattr(distributed, name)

        def call(first, *rest, of=function, name=name, **options):
            sent = rest[0] if rest else first
            calls.append((name, sent.numel() * sent.element_size()))
            return of(first, *rest, **options)

        setattr(distributed, name, call)
    return calls


def with_a_hook_that_raises(problem, own, folder, rank):
    """On one process; what the others then find as the gradient of the inputs."""

    def hook(rows, gradient):
        if rank == problem["hook_raises"]:
            raise MemoryError

    x, weight = problem["x"].requires_grad_(), problem["weight"][own].requires_grad_()
    given = {"group": distributed.group.WORLD, "memory_budget": BUDGET, "weight_grad_hook": hook}
    linear_zlpr_loss(x, weight, problem["targets"][:, own], **given).backward()
    torch.save(x.grad, f"{folder}/found-{rank}.pt")


def leaves(problem, own):
    """Input, and the process's own part of weight and bias."""
    return [array.clone().requires_grad_() for array in (problem["x"], problem["weight"][own], problem["bias"][own])]


def forms_of(problem, own, rank):
    """Every form of the loss, of input, weight and bias."""
    group, total = distributed.group.WORLD, problem["ends"][-1]
    targets, ids, options = problem["targets"][:, own], problem["ids"], {"group": group, **problem["options"]}
    if "mask" in options:
        options["mask"] = options["mask"][:, own]
    chunked, told = {"memory_budget": BUDGET, **options}, {"class_range": (problem["told"][rank], total)}
    ignored = {"ignore_index": problem["ignore_index"]}
    return {
        "dense": lambda x, w, b: zlpr_loss(linear(x, w, b), targets, **ignored, **options),
        "ids": lambda x, w, b: sparse_zlpr_loss(linear(x, w, b), ids, **told, **options),
        "linear": lambda x, w, b: linear_zlpr_loss(x, w, targets, b, **ignored, **chunked),
        "linear ids": lambda x, w, b: sparse_linear_zlpr_loss(x, w, ids, b, **chunked),
        "linear ids, told": lambda x, w, b: sparse_linear_zlpr_loss(x, w, ids, b, **told, **chunked),
    }


def with_arguments_that_fail(problem, own, rank):
    """On one process, in every form and in two ways: what each says, and then the loss of the next call."""
    bad = {"targets": problem["targets"][:-1], "ids": problem["ids"] + 10_000}
    bad_options = problem["options"] | {"weight": torch.ones(7, 7, 7)}
    forms, found = forms_of(problem, own, rank), {}
    for how, change in {"targets": bad, "options": {"options": bad_options}}.items():
        failing = forms_of(problem | change, own, rank) if rank == problem["fails"] else forms
        for name, form in failing.items():
            try:
                said = str(form(*leaves(problem, own)))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            found[f"{name}, {how}"] = said, forms[name](*leaves(problem, own)).item()
    with suppress(ValueError):  # of every process: the dimension of the classes must be the last one
        x, weight, bias = leaves(problem, own)
        told = {"group": distributed.group.WORLD, "class_range": (problem["told"][rank], problem["ends"][-1])}
        sparse_zlpr_loss(linear(x, weight, bias), problem["ids"], dim=0, **told)
        found["another dimension"] = "was taken"
    return found


def main(folder, rank, world):
    problem = torch.load(f"{folder}/problem.pt")
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/store", timeout=limit, rank=rank, world_size=world)
    if problem["crash"] == rank:
        raise SystemExit(3)
    own = slice(problem["ends"][rank], problem["ends"][rank + 1])
    if problem["hook_raises"] is not None:
        with_a_hook_that_raises(problem, own, folder, rank)
        return
    if problem["fails"] is not None:
        torch.save(with_arguments_that_fail(problem, own, rank), f"{folder}/found-{rank}.pt")
        distributed.destroy_process_group()
        return
    calls, found = counted(), {}
    forms = forms_of(problem, own, rank)
    for name, form in forms.items():
        arrays = leaves(problem, own)
        calls.clear()
        loss = form(*arrays)
        forward = list(calls)
        calls.clear()
        gradients = torch.autograd.grad((loss * problem["upstream"]).sum(), arrays)
        found[name] = {"loss": loss.detach(), "gradients": gradients, "forward": forward, "backward": list(calls)}
    torch.save(found, f"{folder}/found-{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
