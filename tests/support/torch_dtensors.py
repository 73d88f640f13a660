"""One process of a mesh, with DTensors: run by tests/integrations/torch/test_torch_dtensor.py.

It reads whole problems from a file, shards them, computes every form of the loss, and writes what it found: losses,
gradients and their placements, and how often the processes had to exchange something.
"""

import sys
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch_shards import BUDGET, counted

from zlpr_torch import (
    LinearZLPRLoss,
    SparseZLPRLoss,
    ZLPRLoss,
    linear_zlpr_loss,
    sparse_linear_zlpr_loss,
    sparse_zlpr_loss,
    zlpr_loss,
)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor):
    return str(tensor.placements) if isinstance(tensor, DTensor) else None


def measured(form, arrays, upstream):
    """What a form of the loss gives: it is called with leaves, of which some are DTensors."""
    calls, arrays = counted.calls, [array.detach().clone().requires_grad_() for array in arrays]
    calls.clear()
    with CommDebugMode() as forward:
        loss = form(*arrays)
    sent, of_loss = list(calls), (whole(loss.detach()), placed(loss))
    scaled = (whole(loss) * upstream).sum()
    calls.clear()
    with CommDebugMode() as backward:
        gradients = torch.autograd.grad(scaled, arrays)
    return {
        "loss": of_loss,
        "gradients": [(whole(gradient), placed(gradient)) for gradient in gradients],
        "forward": (sent, forward.get_total_counts()),
        "backward": (list(calls), backward.get_total_counts()),
    }


def losses(problem, rank):
    """Every form on a mesh; "axes" say what its dimensions shard: "rows" or "classes"."""
    mesh = init_device_mesh("cpu", problem["mesh"], mesh_dim_names=problem["axes"])

    def put(tensor, **axes):
        placements = [Shard(axes[name]) if name in axes else Replicate() for name in problem["axes"]]
        return distribute_tensor(tensor, mesh, placements)

    own = {"rows": 0, "classes": 1}
    targets, ids, options = problem["targets"], problem["ids"], problem["options"]
    sharded = {name: put(x, **own) if name == "mask" else x for name, x in options.items()}
    logits = problem["x"] @ problem["weight"].t() + problem["bias"]
    x, layer = put(problem["x"], rows=0), [put(problem[name], classes=0) for name in ("weight", "bias")]
    chunked = {"memory_budget": BUDGET, **options}
    own_targets, own_ids = put(targets, **own), put(ids, rows=0)
    forms = {
        "dense": (lambda s: zlpr_loss(s, own_targets, **sharded), [put(logits, **own)]),
        "dense, whole targets": (lambda s: zlpr_loss(s, targets, **options), [put(logits, **own)]),
        "ids": (lambda s: sparse_zlpr_loss(s, ids, **options), [put(logits, **own)]),
        "ids of rows": (lambda s: sparse_zlpr_loss(s, own_ids, **sharded), [put(logits, **own)]),
        "linear": (lambda x, w, b: linear_zlpr_loss(x, w, own_targets, b, **chunked), [x, *layer]),
        "linear ids": (lambda x, w, b: sparse_linear_zlpr_loss(x, w, ids, b, **chunked), [x, *layer]),
    }
    if "rows" not in problem["axes"]:
        forms["linear ids, plain input"] = (forms["linear ids"][0], [problem["x"], *layer])
    return {name: measured(*form, problem["upstream"]) for name, form in forms.items()}


class Model(nn.Module):
    """An encoder, and a head of either kind."""

    def __init__(self, problem, *, linear):
        super().__init__()
        classes, features = problem["weight"].shape
        self.encoder = nn.Linear(features, features)
        self.head = LinearZLPRLoss(features, classes, sparse=True) if linear else nn.Linear(features, classes)
        self.criterion = SparseZLPRLoss() if problem["sparse"] else ZLPRLoss(weight=torch.linspace(0.5, 2, classes))
        with torch.no_grad():
            self.encoder.weight.copy_(problem["encoder"])
            self.encoder.bias.zero_()
            self.head.weight.copy_(problem["weight"])
            self.head.bias.copy_(problem["bias"])

    def forward(self, x, target):
        if isinstance(self.head, LinearZLPRLoss):
            return self.head(torch.tanh(self.encoder(x)), target=target)
        return self.criterion(self.head(torch.tanh(self.encoder(x))), target)


def parallel(problem, rank):
    """Models under ``parallelize_module``, on a second dimension of the mesh under ``fully_shard`` too."""
    mesh = init_device_mesh("cpu", problem["mesh"], mesh_dim_names=problem["axes"])
    found = {}
    for linear in (False, True):
        model = Model(problem, linear=linear)
        style = ColwiseParallel(output_layouts=Replicate()) if linear else ColwiseParallel(use_local_output=False)
        parallelize_module(model, mesh["classes"], {"head": style})
        x, target = problem["x"], problem["ids"] if linear or problem["sparse"] else problem["targets"]
        if "rows" in problem["axes"]:
            from torch.distributed.fsdp import fully_shard

            fully_shard(model, mesh=mesh["rows"])
            part = slice(*[len(x) * (mesh["rows"].get_local_rank() + k) // mesh["rows"].size() for k in (0, 1)])
            x, target = x[part], target[part]
        loss = model(x, target)
        loss.backward()
        gradients = {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
        found["linear" if linear else "dense"] = {"loss": loss.item(), "gradients": gradients, "placed": placed(loss)}
    return found


def refusals(problem, rank):
    """What is said of arguments that cannot be taken: the same on all processes, so that none waits for another."""
    mesh = init_device_mesh("cpu", problem["mesh"], mesh_dim_names=problem["axes"])
    return {name: said(call) for name, call in calls_to_refuse(problem, mesh).items()}


def calls_to_refuse(problem, mesh):
    targets, ids, x, weight = (problem[name] for name in ("targets", "ids", "x", "weight"))
    logits = x @ weight.t()
    sharded = distribute_tensor(logits, mesh, [Replicate(), Shard(1)])
    local, layer = sharded.to_local(), distribute_tensor(weight, mesh, [Replicate(), Shard(0)])
    both = distribute_tensor(logits, mesh, [Shard(1), Shard(1)])
    features = distribute_tensor(weight, mesh, [Replicate(), Shard(1)])
    partial = distribute_tensor(x, mesh, [Replicate(), Shard(1)]) @ distribute_tensor(
        weight.t(), mesh, [Replicate(), Shard(0)]
    )
    rows = distribute_tensor(x, mesh, [Replicate(), Shard(0)])
    own = targets[:, : local.shape[1]]
    learned = torch.zeros(weight.shape[0], requires_grad=True)
    return {
        "partial": lambda: zlpr_loss(partial, targets),
        "twice": lambda: zlpr_loss(both, targets),
        "features": lambda: linear_zlpr_loss(x, features, targets),
        "same dimension": lambda: linear_zlpr_loss(rows, layer, targets),
        "local target": lambda: zlpr_loss(sharded, own),
        "local weight": lambda: zlpr_loss(sharded, targets, weight=torch.ones(local.shape[1])),
        "plain logits": lambda: zlpr_loss(logits, distribute_tensor(targets, mesh, [Replicate(), Shard(1)])),
        "plain logits, ids": lambda: sparse_zlpr_loss(logits, distribute_tensor(ids, mesh, [Replicate(), Replicate()])),
        "plain layer": lambda: linear_zlpr_loss(x, weight, distribute_tensor(targets, mesh, [Replicate(), Shard(1)])),
        "group": lambda: zlpr_loss(sharded, targets, group=distributed.group.WORLD),
        "lists": lambda: sparse_zlpr_loss(distribute_tensor(logits, mesh, [Shard(0), Shard(1)]), ids.tolist()),
        "learned": lambda: zlpr_loss(sharded, targets, threshold=learned),
        "hook": lambda: linear_zlpr_loss(distribute_tensor(x, mesh, [Shard(0), Replicate()]), layer, targets, weight_grad_hook=print),
        "other mesh": lambda: zlpr_loss(sharded, distribute_tensor(targets, mesh["classes"], [Shard(1)])),
        "cut otherwise": lambda: sparse_zlpr_loss(cut_otherwise(logits, mesh), ids),
        "cut otherwise by one": lambda: sparse_zlpr_loss(cut_otherwise(logits, mesh, others=5), ids),
    }  # fmt: skip


def cut_otherwise(logits, mesh, others=1):
    """A DTensor of all classes but one on the first process, and as many as told on the other."""
    first = mesh["classes"].get_local_rank() == 0
    own = logits[:, :-1] if first else logits[:, -others:]
    return DTensor.from_local(own.contiguous(), mesh["classes"], [Shard(1)], shape=logits.shape, stride=logits.stride())


def said(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(folder, rank, world):
    problem = torch.load(f"{folder}/problem.pt")
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/store", timeout=limit, rank=rank, world_size=world)
    counted.calls = counted()
    tasks = {"losses": losses, "parallel": parallel, "refusals": refusals}
    found = [tasks[case["task"]](case, rank) for case in problem["cases"]]
    torch.save(found, f"{folder}/found-{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
