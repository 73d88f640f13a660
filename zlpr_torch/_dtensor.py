"""Losses of DTensors: what this process has of each argument, its loss by ``group=``, and the result as a DTensor.

``_sharded`` imports this when the first DTensor comes: ``torch.distributed.tensor`` costs time and memory that nobody
else should pay.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from zlpr_core._checks import broadcasts, class_axes
from zlpr_core._options import is_number
from zlpr_core._targets import equals

from . import _group
from ._arguments import check_tensors
from ._group import Part
from ._ids import as_ids
from ._layout import Layout, Shape
from ._namespace import asarray, xp
from ._reduction import read_reduction

OPTIONS = ("mask", "weight", "pos_weight", "threshold")


class Sharding(NamedTuple):
    """How the logits of a call lie on a mesh, whether they exist or not."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: Shape  # of the logits of all processes
    axes: Shape  # of the classes

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Sharding":
        """By the arguments of a loss, which are checked here as far as DTensors ask for it."""
        if given.get("group") is not None or given.get("class_range") is not None:
            msg = "`group` and `class_range` are what DTensors tell. Leave them out, or pass each `.to_local()`."
            raise ValueError(msg)
        sharding = cls._of_layer(given) if "linear_weight" in given else cls._of_logits(given)
        is_known = all(type(placement) in (Shard, Replicate) for placement in sharding.placements)
        if not is_known or len(sharding.over_classes) > 1:
            msg = (
                "DTensors must be placed so that each dimension of their mesh has Shard or Replicate logits, and at "
                f"most one shards the classes. Received, for the logits: {sharding.placements}. Redistribute them."
            )
            raise ValueError(msg)
        if given.get("weight_grad_hook") is not None and sharding.over_rows:
            msg = "`weight_grad_hook` gets no gradient of all rows where a DTensor shards the rows. Leave it out."
            raise NotImplementedError(msg)
        return sharding

    @classmethod
    def _of_logits(cls, given: Mapping[str, Any]) -> "Sharding":
        input = given["input"]
        if not isinstance(input, DTensor):
            raise _not_distributed(("input",))
        axes = class_axes(input, given["dim"], xp=xp)
        return cls(input.device_mesh, _placements(input, input.device_mesh), tuple(input.shape), axes)

    @classmethod
    def _of_layer(cls, given: Mapping[str, Any]) -> "Sharding":
        input, weight = given["input"], given["linear_weight"]
        check_tensors(input=input, linear_weight=weight)
        owner = weight if isinstance(weight, DTensor) else input
        if not isinstance(owner, DTensor):
            raise _not_distributed(("input", "linear_weight"))
        mesh, last = owner.device_mesh, input.dim() - 1
        both = zip(_placements(input, mesh), _placements(weight, mesh), strict=False)
        placements = tuple(_of_product(*pair, last) for pair in both)
        return cls(mesh, placements, (*input.shape[:-1], weight.shape[0]), (last,))

    @property
    def over_classes(self) -> list[int]:
        """The dimensions of the mesh on which they are sharded."""
        return [n for n, p in enumerate(self.placements) if type(p) is Shard and p.dim in self.axes]

    @property
    def over_rows(self) -> list[int]:
        """The same of the examples."""
        return [n for n, p in enumerate(self.placements) if type(p) is Shard and p.dim not in self.axes]

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """Of the logits."""
        return Layout(len(self.shape), self.axes).batch_axes

    def part(self) -> Part | None:
        """The classes of this process, cut as ``torch.chunk`` cuts; None if it has all of them."""
        if not self.over_classes:
            return None
        (dim,) = self.over_classes
        total = self.shape[self.placements[dim].dim]
        each = -(-total // self.mesh.size(dim))
        first = min(each * self.mesh.get_local_rank(dim), total)
        return Part(first, min(each, total - first), total, told=False)

    def own_rows(self) -> dict[int, int]:
        """The axes of ids, or of the inputs of a layer, by those of the logits; the last is another."""
        return {axis: place for place, axis in enumerate(self.batch_axes)}

    def local(self, name: str, tensor: Tensor, own: Mapping[int, int], *, is_summed: bool = False) -> Tensor:
        """What this process has of ``tensor``, whose axes are those of the logits by ``own``. A plain one is the whole.

        The gradient is a share where the logits are sharded on an axis that the tensor lacks: DTensor sums it, unless
        the loss does (``is_summed``).
        """
        axes = [own.get(p.dim) if p.is_shard() else None for p in self.placements]
        wanted = [Replicate() if axis is None else Shard(axis) for axis in axes]
        lacks = [p.is_shard() and axis is None and not is_summed for p, axis in zip(self.placements, axes, strict=True)]
        shares = [Partial() if lack else place for lack, place in zip(lacks, wanted, strict=True)]
        if not isinstance(tensor, DTensor):
            tensor = DTensor.from_local(tensor, self.mesh, [Replicate()] * self.mesh.ndim, run_check=False)
        elif tensor.device_mesh != self.mesh:
            msg = f"`{name}` must be on the mesh of the logits, {self.mesh}. Received: {tensor.device_mesh}."
            raise ValueError(msg)
        # Where nothing moves too, because this is what makes a gradient of shares one of the tensor's placements.
        local: Tensor = tensor.redistribute(placements=wanted).to_local(grad_placements=shares)
        return local

    def target(self, target: Tensor) -> Tensor:
        """Of this process."""
        _check_whole("target", target, self.shape, is_whole=tuple(target.shape) == self.shape)
        return self.local("target", target, {axis: axis for axis in range(len(self.shape))})

    def indices(self, indices: Any, pad: int | None) -> Any:
        """Of this process. All of them have all of the classes of a row."""
        ids = as_ids(indices, torch.device(self.mesh.device_type), pad)
        if not self.over_rows and not isinstance(ids, DTensor):
            return ids
        if not isinstance(ids, Tensor) or ids.layout is not torch.strided:
            msg = f"`indices` must be a tensor where rows are sharded. Received: {type(indices).__name__}."
            raise TypeError(msg)
        rows = tuple(self.shape[axis] for axis in self.batch_axes)
        _check_whole("indices", ids, (*rows, "P"), is_whole=tuple(ids.shape[:-1]) == rows)
        return self.local("indices", ids, self.own_rows())

    def option(self, name: str, option: Any) -> Any:
        """Of this process; a number, or a tensor that broadcasts to the logits."""
        if option is None or is_number(option):
            return option
        if not isinstance(option, Tensor):
            listed = name != "mask" and not hasattr(option, "dtype")
            option = asarray(option, dtype=torch.float64 if listed else None, device=self.mesh.device_type)
        shape, skipped = tuple(option.shape), len(self.shape) - option.dim()
        _check_whole(name, option, self.shape, is_whole=broadcasts(shape, self.shape))
        own = {axis + skipped: axis for axis, size in enumerate(shape) if size == self.shape[axis + skipped]}
        return self.local(name, option, own)

    def number_of_rows(self, own: Mapping[str, Any]) -> Any:
        """How many of all processes keep a cell; ``own`` are the arguments of this process."""
        rows = prod(self.shape[axis] for axis in self.batch_axes)
        ignored, mask = own.get("ignore_index"), own["mask"]
        if mask is None and ignored is None:
            return rows
        if ignored is not None:
            labelled = ~equals(own["target"], ignored, xp=xp)
            mask = labelled if mask is None else asarray(mask) & labelled
        kept = mask.expand(self.own_shape(own)).any(self.axes).int()
        for dim in self.over_classes:
            distributed.all_reduce(kept, op=distributed.ReduceOp.MAX, group=self.mesh.get_group(dim))
        number = kept.sum()
        for dim in self.over_rows:
            distributed.all_reduce(number, group=self.mesh.get_group(dim))
        return number.clamp(min=min(rows, 1))

    @staticmethod
    def own_shape(own: Mapping[str, Any]) -> Shape:
        """Of the logits of this process."""
        shape: Shape = tuple(own["input"].shape)
        return (*shape[:-1], own["linear_weight"].shape[0]) if "linear_weight" in own else shape

    def whole(self, value: Tensor, reduction: str) -> Tensor:
        """Losses of this process's rows, or its share of a sum, as a DTensor: a scalar is the same on all."""
        if reduction != "none":
            shares = [Partial() if dim in self.over_rows else Replicate() for dim in range(self.mesh.ndim)]
            share = DTensor.from_local(value, self.mesh, shares, run_check=False)
            return share.redistribute(placements=[Replicate()] * self.mesh.ndim)
        own = self.own_rows()
        places = [Shard(own[p.dim]) if dim in self.over_rows else Replicate() for dim, p in enumerate(self.placements)]
        shape = torch.Size([self.shape[axis] for axis in self.batch_axes])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(value, self.mesh, places, run_check=False, shape=shape, stride=stride)


def loss(function: Callable[..., Tensor], given: Mapping[str, Any]) -> Tensor:
    """A loss of arguments by name, one of which is a DTensor. It returns a DTensor if ``input`` is one."""
    sharding = Sharding.of(given)
    part, own = sharding.part(), {**given, **_own_logits(sharding, given)}
    of_rows = partial(_loss_of_rows, function, sharding, part)
    if part is not None:
        own["group"] = sharding.mesh.get_group(sharding.over_classes[0])
        own |= {"class_range": part} if "class_range" in given else {}
    value = of_rows(**own) if part is None else _group.together(of_rows, **own)
    return sharding.whole(value, read_reduction(given["reduction"])) if isinstance(given["input"], DTensor) else value


def _loss_of_rows(function: Callable[..., Tensor], sharding: Sharding, part: Part | None, **own: Any) -> Tensor:
    """That of this process, or its share of a mean, by its own logits and by targets and options of all processes."""
    reduction = read_reduction(own["reduction"])
    own |= _own_targets(sharding, own) | {name: sharding.option(name, own[name]) for name in OPTIONS}
    if part is not None:
        _check_classes(part, sharding.own_shape(own), sharding)
    is_share = reduction == "mean" and bool(sharding.over_rows)
    value = function(**own | {"reduction": "sum" if is_share else reduction})
    return value / sharding.number_of_rows(own) if is_share else value


def _own_targets(sharding: Sharding, given: Mapping[str, Any]) -> dict[str, Any]:
    if "target" in given:
        return {"target": sharding.target(given["target"])}
    return {"indices": sharding.indices(given["indices"], given["pad"])}


def _own_logits(sharding: Sharding, given: Mapping[str, Any]) -> dict[str, Any]:
    """Logits, or a layer and its inputs."""
    if "linear_weight" not in given:
        return {"input": given["input"].to_local()}
    own: dict[str, Any] = {"input": sharding.local("input", given["input"], sharding.own_rows(), is_summed=True)}
    for name in ("linear_weight", "bias"):
        own[name] = None if given[name] is None else sharding.local(name, given[name], {sharding.axes[0]: 0})
    return own


def _placements(tensor: Tensor, mesh: Any) -> tuple[Any, ...]:
    """On each dimension of the mesh, with axes that are not negative; a plain tensor is the same on all processes."""
    if not isinstance(tensor, DTensor):
        return tuple(Replicate() for _ in range(mesh.ndim))
    return tuple(Shard(p.dim % tensor.dim()) if type(p) is Shard else p for p in tensor.placements)


def _of_product(input: Any, weight: Any, last: int) -> Any:
    """Where a linear layer puts its logits, on a dimension of the mesh: Partial if the features are sharded."""
    if weight.is_replicate():
        return Partial() if input == Shard(last) else input
    return Shard(last) if weight == Shard(0) and input.is_replicate() else Partial()


def _check_classes(part: Part, shape: Shape, sharding: Sharding) -> None:
    """Raise unless DTensor itself has cut the classes: by its own numbers they are counted."""
    axis = sharding.placements[sharding.over_classes[0]].dim
    if shape[axis] != part.classes:
        msg = (
            f"A DTensor must have its {sharding.shape[axis]} classes as torch.chunk cuts them. Received: {shape[axis]} "
            f"where {part.classes} belong."
        )
        raise ValueError(msg)


def _check_whole(name: str, tensor: Tensor, expected: Any, *, is_whole: bool) -> None:
    if not is_whole:
        msg = (
            f"`{name}` beside DTensors must be that of all processes, as a DTensor or whole on each: of the shape "
            f"{expected}, or broadcast to it. Received: {tuple(tensor.shape)}. DTensor.from_local makes one of slices."
        )
        raise ValueError(msg)


def _not_distributed(arguments: tuple[str, ...]) -> TypeError:
    names = " or ".join(f"`{name}`" for name in arguments)
    return TypeError(f"{names} must be a DTensor where another argument is. DTensor.from_local makes one of slices.")
