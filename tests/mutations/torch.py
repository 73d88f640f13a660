"""One-line breakages of zlpr_torch: the decision between formula, kernel and op, the kernel of the CPU, reductions."""

from mutations import Mutant

FIRST = tuple(f"conformance/test_{name}.py" for name in ("derivatives", "options", "edges"))
TESTS = ("conformance", "frameworks/torch")
AUTOGRAD, CPU, DISPATCH, FORMULA = (f"zlpr_torch/_{name}.py" for name in ("autograd", "cpu", "dispatch", "formula"))
CPU_DIVERGENCES, CPU_MEMORY, CPU_PAIRS, CPU_TERMS = (
    f"zlpr_torch/_cpu_{name}.py" for name in ("divergences", "memory", "pairs", "terms")
)
LAYOUT, LOSSES, OPS, REDUCTION = (f"zlpr_torch/_{name}.py" for name in ("layout", "losses", "ops", "reduction"))
FUNCTIONS, KERNELS, WAYS = (
    (f"frameworks/torch/test_{name}.py",) for name in ("torch", "torch_kernels", "torch_dispatch")
)
OPTIONS, EDGES, VALUES = (
    ("conformance/test_options.py",),
    ("conformance/test_edges.py",),
    ("conformance/test_values.py",),
)
CHUNKS, GROUP, IDS, LINEAR, SHARDED = (
    f"zlpr_torch/_{name}.py" for name in ("chunks", "group", "ids", "linear", "sharded")
)
LINEAR_AUTOGRAD, LINEAR_OPS = (f"zlpr_torch/_linear_{name}.py" for name in ("autograd", "ops"))
COMPILED = ("frameworks/torch/test_torch_linear_compiled.py",)
GIVEN, LINEARLY = (("frameworks/torch/test_torch_linear" + name,) for name in ("_given.py", ".py"))
CPU_CHUNKS, CPU_IDS, DTENSOR = (f"zlpr_torch/_{name}.py" for name in ("cpu_chunks", "cpu_ids", "dtensor"))
PLACED = ("integrations/torch/test_torch_dtensor.py",)
SHARDEDLY = ("integrations/torch/test_torch_sharded.py",)
PAIR_OPS, FUSED = "zlpr_torch/_pair_ops.py", ("frameworks/torch/test_torch_pair_ops.py",)
PAIRED, BLOCKWISE = ("conformance/test_divergences.py",), ("frameworks/torch/test_torch_pairs.py",)
KEPT = ("frameworks/torch/test_torch_memory.py",)

MUTANTS = {
    # --- arguments on their way
    "mask dropped": Mutant(LOSSES, "options = read_options(input, mask, weight, pos_weight, threshold)\n    if group", "options = read_options(input, None, weight, pos_weight, threshold)\n    if group", OPTIONS),
    "weight and pos_weight swapped": Mutant(LOSSES, "options = read_options(input, mask, weight, pos_weight, threshold)\n    if group", "options = read_options(input, mask, pos_weight, weight, threshold)\n    if group", OPTIONS),
    "threshold dropped": Mutant(LOSSES, "options = read_options(input, mask, weight, pos_weight, threshold)\n    if group", "options = read_options(input, mask, weight, pos_weight, None)\n    if group", OPTIONS),
    "sparse and nested tensors pass": Mutant("zlpr_torch/_arguments.py", "or value.layout is not torch.strided or value.is_nested:", "or False:", ("frameworks/torch/test_torch_given.py",)),
    "ids of NumPy as they are": Mutant(IDS, "return asarray(indices, device=device)", "return indices", ("frameworks/torch/test_torch_given.py",)),
    "assigned options unchecked": Mutant("zlpr_torch/_modules.py", "        if name in READ:\n", "        if name in READ and name not in self.__dict__:\n", ("frameworks/torch/test_torch_assigned.py",)),
    "tensors of inference mode to autograd": Mutant(DISPATCH, "return tensor.clone() if tensor.is_inference() else tensor", "return tensor", ("frameworks/torch/test_torch_given.py",)),
    # --- reductions
    "mean over all examples": Mutant(REDUCTION, "losses.mean() if labelled is None else losses.sum() / number_of(labelled)", "losses.mean()", WAYS),
    "nobody labelled is NaN": Mutant(REDUCTION, "torch.maximum(labelled.sum(), torch.ones_like(labelled).any())", "labelled.sum()", WAYS),
    "labelled by every cell": Mutant(REDUCTION, "mask.expand(*shape).any(axes)", "mask.expand(*shape).all(axes)", WAYS),
    "sum is mean": Mutant(REDUCTION, "return losses.sum()\n", "return losses.mean()\n", FUNCTIONS),
    # --- which way a loss takes
    "kernel under transforms": Mutant(DISPATCH, "if _torch_internals.is_transformed() or is_exporting():", "if is_exporting():", (*WAYS, "conformance/test_derivatives.py")),
    "kernel though the options have gradients": Mutant(DISPATCH, "return any(is_for_formula(x) for x in (target, *options))", "return is_for_formula(target)", ("conformance/test_derivatives.py", *WAYS)),
    "kernel though the targets have gradients": Mutant(DISPATCH, "return is_for_formula(target)\n", "return False\n", ("conformance/test_derivatives.py", *WAYS)),
    "impl ignored": Mutant(DISPATCH, 'if impl != "plain" and type(input) in _PLAIN', "if type(input) in _PLAIN", KERNELS),
    "ops in exported programs": Mutant(DISPATCH, "if _torch_internals.is_transformed() or is_exporting():", "if _torch_internals.is_transformed():", WAYS),
    # --- autograd around the kernels
    "second order of a constant": Mutant(AUTOGRAD, "if torch.is_grad_enabled():", "if False:", ("conformance/test_derivatives.py",)),
    "batched upstream to the kernel": Mutant(AUTOGRAD, "or _torch_internals.is_batched(upstream)\n", "", FUNCTIONS),
    "residuals used twice": Mutant(AUTOGRAD, "residuals, ctx.residuals = ctx.residuals, None\n            gradient = kernel", "residuals = ctx.residuals\n            gradient = kernel", (*KERNELS, *FUNCTIONS)),
    "residuals used twice, of halves": Mutant(AUTOGRAD, "residuals, ctx.residuals = ctx.residuals, None\n            gradient = _cpu", "residuals = ctx.residuals\n            gradient = _cpu", BLOCKWISE),
    "residuals used twice, of two logits": Mutant(AUTOGRAD, "residuals, ctx.residuals = ctx.residuals, None\n            gradients =", "residuals = ctx.residuals\n            gradients =", BLOCKWISE),
    "options lost for backward": Mutant(AUTOGRAD, "ctx.numbers = [None if isinstance(x, Tensor) else x for x in options]\n            tensors", "pass\n            tensors", (*OPTIONS, *WAYS)),
    "numbers lost for backward, of two logits": Mutant(AUTOGRAD, "ctx.numbers = [None if isinstance(x, Tensor) else x for x in options]\n        ctx.save_for_backward(p,", "ctx.numbers = [None] * 4\n        ctx.save_for_backward(p,", (*PAIRED, *BLOCKWISE)),
    "numbers lost for backward, of halves": Mutant(AUTOGRAD, "ctx.axes, ctx.numbers = axes, [None if isinstance(x, Tensor) else x for x in options]", "ctx.axes, ctx.numbers = axes, [None] * 4", (*OPTIONS, "conformance/test_derivatives.py", *FUNCTIONS, *BLOCKWISE)),
    "upstream gradients of the other half": Mutant(AUTOGRAD, "_cpu.backward_terms(upstreams, residuals", "_cpu.backward_terms(upstreams[::-1], residuals", BLOCKWISE),
    "second order of a constant, of halves": Mutant(AUTOGRAD, "if torch.is_grad_enabled() or any(", "if any(", (*FUNCTIONS, *BLOCKWISE)),
    "second order of a constant, of two logits": Mutant(AUTOGRAD, "if kernel is None or torch.is_grad_enabled() or is", "if kernel is None or is", PAIRED),
    "batched upstream to the kernel of two logits": Mutant(AUTOGRAD, "or torch.is_grad_enabled() or is_seen_through(upstream):", "or torch.is_grad_enabled():", (*FUNCTIONS, *BLOCKWISE)),
    "learned threshold: sign": Mutant(AUTOGRAD, "else -gradient.sum_to_size(", "else gradient.sum_to_size(", BLOCKWISE),
    "learned threshold beside half precision": Mutant(DISPATCH, "is_learned = wide and type", "is_learned = type", BLOCKWISE),
    "numbers lost for backward": Mutant(AUTOGRAD, "[n if x is None else x for x, n in", "[x for x, n in", (*OPTIONS, *WAYS)),
    "op: residuals of another op": Mutant(OPS, "ctx.save_for_backward(output[1], input, target, mask, weight, pos_weight, threshold)", "ctx.save_for_backward(output[1] * 2, input, target, mask, weight, pos_weight, threshold)", WAYS),
    "op: a gradient in the options, silently": Mutant(OPS, "if any(ctx.needs_input_grad[1:]):", "if False:", WAYS),
    "op: overwrites what it was given": Mutant(OPS, "overwrite=False", "overwrite=True", WAYS),
    "op: fake result of another dtype": Mutant(OPS, "wide = torch.float64 if input.dtype == torch.float64 else torch.float32", "wide = input.dtype", WAYS),
    # --- the formula's gradients
    "linear gradient without the mean": Mutant(FORMULA, 'if reduction == "mean":', "if False:", FUNCTIONS),
    "linear gradient in the dtype that computes": Mutant(FORMULA, "(gradient * layout.beside_cells(upstream)).to(input.dtype)", "gradient * layout.beside_cells(upstream)", FUNCTIONS),
    "upstream gradient beside the wrong axes": Mutant(LAYOUT, "                each = each.unsqueeze(axis)", "                each = each.unsqueeze(-1)", FUNCTIONS),
    "classes in the order of the tensor": Mutant(LAYOUT, "cells.movedim(self.axes, self.last).reshape(", "cells.reshape(", OPTIONS),
    "gradient on other axes": Mutant(LAYOUT, ".movedim(self.last, self.axes)", "", FUNCTIONS),
    # --- the kernel of the CPU
    "cpu: bytes of a bool tensor": Mutant(CPU_TERMS, "return flags.view(torch.uint8).clamp(max=1)", "return flags.view(torch.uint8)", ("frameworks/torch/test_torch_given.py",)),
    "cpu: a product beyond the range": Mutant(CPU_TERMS, "sums = torch.stack((row_sums(positive), row_sums(negative)))\n    losses = torch.log1p(sums)", "sums = torch.stack((row_sums(positive), row_sums(negative)))\n    losses = torch.log1p(sums.sum(0) + sums.prod(0)).expand(2, -1, 1) / 2", ("frameworks/torch/test_torch_silence.py",)),
    "cpu: gradient of the other sign": Mutant(CPU_TERMS, "addcmul_(positive, in_positive, value=-1)", "addcmul_(positive, in_positive, value=1)", KERNELS),
    "cpu: no one in the sums": Mutant(CPU_TERMS, "/ sums.add_(number_tensor(1.0, sums.dtype))", "/ sums", KERNELS),
    "cpu: no one in the sums, at once": Mutant(CPU_TERMS, "/ sums.add_(one)", "/ sums", VALUES),
    "cpu: gradient of the other sign, at once": Mutant(CPU_TERMS, "return _column(-upstream, upstream, dtype)", "return _column(upstream, upstream, dtype)", VALUES),
    "cpu: gradient of the other sign, from a column": Mutant(CPU_TERMS, "return upstream * _column(-1.0, 1.0, dtype)", "return upstream * _column(1.0, 1.0, dtype)", KERNELS),
    "cpu: exponents of the other sign, at once": Mutant(CPU_TERMS, "torch.mul(wide, other_side)", "torch.mul(wide, side)", VALUES),
    "cpu: illegal whole numbers, at once": Mutant(CPU_TERMS, "            illegal = illegal_rows(share, dtype)", "            pass", EDGES),
    "cpu: upstream gradient forgotten": Mutant(CPU, "return residuals.mul_(each) if overwrite else residuals * each", "return residuals", KERNELS),
    "cpu: half precision is multiplied": Mutant(CPU, "if residuals is not None and input.dtype in WIDE:", "if residuals is not None:", FUNCTIONS),
    "cpu: mean forgotten in the gradient": Mutant(CPU, 'if reduction != "mean":\n        return 1', "if True:\n        return 1", KERNELS),
    "cpu: masked cells in the sums": Mutant(CPU, "negative.mul_(self.memory[\"where\"].copy_(as_bytes(options.where)))", "pass", OPTIONS),
    "cpu: masked targets": Mutant(CPU, "positive.mul_(self.memory[\"where\"].copy_(as_bytes(where)))", "pass", (*OPTIONS, *EDGES)),
    "cpu: threshold the wrong way": Mutant(CPU, "return weight * exp(-threshold), weight * exp(threshold)", "return weight * exp(threshold), weight * exp(-threshold)", OPTIONS),
    "cpu: pos_weight forgotten": Mutant(CPU, "* (1.0 if pos_weight is None else pos_weight)", "", OPTIONS),
    "cpu: large factors": Mutant(CPU, "* farthest <= MOST_FACTOR", "* farthest >= 0", (*OPTIONS, *EDGES, *KERNELS)),
    "cpu: illegal weights": Mutant(CPU, "return least >= 0 and least_positive >= 0 and", "return", EDGES),
    "cpu: illegal targets": Mutant(CPU, "losses if illegal is None else losses.masked_fill_(illegal, torch.nan)", "losses", (*EDGES, *KERNELS)),
    "cpu: illegal targets, at once": Mutant(CPU_TERMS, "losses.masked_fill_(illegal, torch.nan)", "pass", EDGES),
    "cpu: half of an illegal targets": Mutant(CPU_TERMS, "if least.item() >= 0 and most.item() <= 1:", "if most.item() <= 1:", EDGES),
    "cpu: sums out of range": Mutant(CPU, "if losses.numel() == 0 or losses.max().item() < limit:", "if True:", VALUES),
    "cpu: hard terms, sign": Mutant(CPU_TERMS, "torch.addcmul(logits, logits, positive, value=-2,", "torch.addcmul(logits, logits, positive, value=2,", VALUES),
    "cpu: soft terms, the other share": Mutant(CPU_TERMS, "torch.lerp(exponentials, number_tensor(0.0, share.dtype), share,", "torch.lerp(number_tensor(0.0, share.dtype), exponentials, share,", KERNELS),
    "cpu: exponentials without digits": Mutant(CPU_TERMS, "tiny = torch.finfo(share.dtype).tiny", "tiny = 0.0", (*VALUES, *KERNELS)),
    "cpu: losses cancel": Mutant(CPU_TERMS, "    losses = torch.log1p(sums)\n    if upstream is not None:", "    losses = torch.log(1 + sums)\n    if upstream is not None:", KERNELS),
    "cpu: losses cancel, at once": Mutant(CPU_TERMS, "    losses = torch.log1p(sums)\n    if illegal", "    losses = torch.log(1 + sums)\n    if illegal", VALUES),
    "cpu: only the first rows are recomputed": Mutant(CPU, "for start in range(0, len(redo), self.step):", "for start in range(0, min(len(redo), 1), self.step):", KERNELS),
    # --- the kernel of two logits: a block
    "pair: agreement, sign": Mutant(CPU_DIVERGENCES, "zip((1, -1), inputs[:2]", "zip((1, 1), inputs[:2]", PAIRED),
    "pair: agreement, half of a slope": Mutant(CPU_PAIRS, "torch.addcmul(apart, slope, block.gap, out=on)", "torch.addcmul(apart, 0 * slope, block.gap, out=on)", PAIRED),
    "pair: apart, tanh beyond 1": Mutant(CPU_PAIRS, "torch.clamp(block.gap, -FARTHEST, FARTHEST, out", "torch.clamp(block.gap, -1.0, 1.0, out", PAIRED),
    "pair: KL, sign": Mutant(CPU_PAIRS, "apart = apart.mul_(side)", "pass", PAIRED),
    "pair: KL, all are near": Mutant(CPU_PAIRS, ".lt_(NEAR)", ".lt_(99.0)", PAIRED),
    "pair: KL, near by the distance alone": Mutant(CPU_PAIRS, "torch.abs(above, out=memory[\"is_near\"])", "torch.abs(rise, out=memory[\"is_near\"])", BLOCKWISE),
    "pair: KL, none is near": Mutant(CPU_PAIRS, ".lt_(NEAR)", ".lt_(0.0)", PAIRED),
    "pair: KL, fewer terms": Mutant(CPU_PAIRS, "torch.float32: _coth(5)", "torch.float32: _coth(2)", PAIRED),
    "pair: KL, fewer terms in float64": Mutant(CPU_PAIRS, "torch.float64: _coth(8)", "torch.float64: _coth(5)", PAIRED),
    "pair: KL, the side that cancels more": Mutant(CPU_PAIRS, "on_x = torch.copysign(block.x, number_tensor(-1.0, dtype)", "on_x = torch.copysign(block.x, number_tensor(1.0, dtype)", PAIRED),
    "pair: KL, the other weight": Mutant(CPU_PAIRS, "torch.lerp(below, above, on", "torch.lerp(above, below, on", PAIRED),
    "pair: KL, the line below": Mutant(CPU_PAIRS, "_exp_minus_line(mean, -1,", "_exp_minus_line(mean, 1,", PAIRED),
    "pair: KL, the line where near too": Mutant(CPU_PAIRS, "torch.sub(rise, r, out=rise)", "rise", PAIRED),
    "pair: KL, slope without its sum": Mutant(CPU_PAIRS, ".mul_(slope).div_(close.add_(1))", ".mul_(slope)", PAIRED),
    "pair: R-Drop, exponentials of the scaled": Mutant(CPU_DIVERGENCES, "inputs.target is not None and scale == 1", "inputs.target is not None", (*PAIRED, *BLOCKWISE)),
    "pair: R-Drop, exponentials of the other": Mutant(CPU_DIVERGENCES, "exponentials=known", "exponentials=memory[\"off_x\"]", (*PAIRED, *BLOCKWISE)),
    "pair: regret without its centre": Mutant(CPU_PAIRS, ".div_(total)\n    exp,", ".mul_(0)\n    exp,", PAIRED),
    "pair: regret, e^d - 1 cancels": Mutant(CPU_PAIRS, ".lt_(1)", ".lt_(0)", PAIRED),
    "pair: regret, the one forgotten": Mutant(CPU_PAIRS, ".add_(one).div_(total)", ".div_(total)", PAIRED),
    "pair: regret, rounding errors in the product": Mutant(CPU_PAIRS, "torch.minimum(high.clamp_(0), squares) * torch.minimum(low.clamp_(0), squares)", "high * low", PAIRED),
    "pair: regret, the product forgotten": Mutant(CPU_PAIRS, "squares + torch.minimum(high.clamp_(0), squares) * torch.minimum(low.clamp_(0), squares)", "squares", PAIRED),
    "pair: regret, squares from 1 on": Mutant(CPU_PAIRS, ".sub_(read.weight, alpha=2)", ".sub_(read.weight)", PAIRED),
    "pair: regret, fewer terms": Mutant(CPU_PAIRS, "((torch.float32, 12), (torch.float64, 20))", "((torch.float32, 8), (torch.float64, 14))", PAIRED),
    "pair: regret, rows of large logits": Mutant(CPU_PAIRS, "values.masked_fill_(too_large, torch.nan)", "pass", (*PAIRED, *BLOCKWISE)),
    "pair: regret, no logit is too large": Mutant(CPU_PAIRS, "if all(-largest <= end <= largest for end in ends):", "if True:", (*PAIRED, *BLOCKWISE)),
    "pair: regret, masked cells": Mutant(CPU_PAIRS, "weight.mul_(block.where)", "pass", (*PAIRED, *BLOCKWISE)),
    "pair: regret, floor forgotten": Mutant(CPU_PAIRS, "floor = read.weight.div_(read.total)", "floor = read.weight.mul_(0)", PAIRED),
    "pair: regret, on and off": Mutant(CPU_PAIRS, ".mul_(read.off).sub_(negative.sub_(floor).mul_(read.on))", ".mul_(read.on).sub_(negative.sub_(floor).mul_(read.off))", PAIRED),
    # --- the kernel of two logits: all blocks
    "pair: upstream gradient forgotten": Mutant(CPU_DIVERGENCES, "else gradient.mul_(each) for", "else gradient for", BLOCKWISE),
    "pair: mean forgotten where recomputed": Mutant(CPU_DIVERGENCES, "each = upstream.reshape(-1, 1) / (divisor(call.reduction, options.where, layout, p.shape) or 1)", "each = upstream.reshape(-1, 1)", BLOCKWISE),
    "pair: scale forgotten in the gradient": Mutant(CPU_DIVERGENCES, "self.factor = call.scale * call.coefficient", "self.factor = call.coefficient", BLOCKWISE),
    "pair: coefficient forgotten in the gradient": Mutant(CPU_DIVERGENCES, "self.factor = call.scale * call.coefficient", "self.factor = call.scale", BLOCKWISE),
    "pair: coefficient forgotten": Mutant(CPU_DIVERGENCES, "values.mul_(self.call.coefficient)", "pass", (*PAIRED, *BLOCKWISE)),
    "pair: R-Drop, twice the loss in the gradient": Mutant(CPU_DIVERGENCES, "else 0.5 * each, memory)", "else each, memory)", BLOCKWISE),
    "pair: no row is recomputed": Mutant(CPU_DIVERGENCES, "if self.count and not self.values.sum().isfinite():", "if False:", (*PAIRED, *BLOCKWISE)),
    "pair: no gradient is recomputed": Mutant(CPU_DIVERGENCES, "whole[rows] = gradient.to(whole.dtype)", "pass", (*PAIRED, *BLOCKWISE)),
    "pair: half precision is multiplied": Mutant(CPU_DIVERGENCES, "if residuals is not None and p.dtype in WIDE and q.dtype in WIDE:", "if residuals is not None:", BLOCKWISE),
    "pair: half precision of the second is multiplied": Mutant(CPU_DIVERGENCES, "if residuals is not None and p.dtype in WIDE and q.dtype in WIDE:", "if residuals is not None and p.dtype in WIDE:", (*PAIRED, *BLOCKWISE)),
    "pair: the last block": Mutant(CPU_DIVERGENCES, "for start in range(0, self.count, self.step):", "for start in range(0, self.count - self.step + 1, self.step):", BLOCKWISE),
    "pair: masked cells": Mutant(CPU_DIVERGENCES, "return logits if where is None else torch.where(where, logits, number_tensor(0.0, self.dtype))", "return logits", (*PAIRED, *BLOCKWISE)),
    "pair: a NaN stays in its slope": Mutant("zlpr_core/_pairs.py", "xp.where(values == values, pair.scale * gradient, nan)", "pair.scale * gradient", BLOCKWISE),
    "pair: coefficient forgotten by the formula": Mutant(FORMULA, "gradient = call.coefficient * of_divergence", "gradient = of_divergence", (*PAIRED, *BLOCKWISE)),
    "pair: mean forgotten by the formula": Mutant(FORMULA, "number_of_examples(layout, inputs.p.shape, inputs.options.where)", "1", (*PAIRED, *BLOCKWISE)),
    # --- memory that is kept between calls
    "kept: made while no gradients are": Mutant(CPU_MEMORY, "with torch.inference_mode(mode=False):", "if True:", KEPT),
    "kept: another dtype": Mutant(CPU_MEMORY, "(kept.shape, kept.dtype) != (shape, dtype)", "kept.shape != shape", KEPT),
    "kept: threads": Mutant(CPU_MEMORY, "class _Kept(threading.local):", "class _Kept:", KEPT),
    "kept: one row": Mutant(CPU_MEMORY, "if shape[0] > 1:", "if True:", KEPT),
    "kept: new memory for the losses of R-Drop": Mutant(CPU_DIVERGENCES, "None if upstream is None else memory[\"spare\"]", "None", KEPT),
    "kept: gradients are not lent": Mutant(CPU_DIVERGENCES, ", gap=wholes[0], apart=wholes[1]", "", KEPT),
    "kept: a gradient is not lent to its loss": Mutant(CPU_DIVERGENCES, "memory.lend(positive=side.whole)", "memory", KEPT),
    "kept: lent in another dtype": Mutant(CPU_MEMORY, " and x.dtype == memory.dtype}", "}", KEPT),
    "kept: a gradient in it": Mutant(CPU_DIVERGENCES, "[x.new_empty(x.shape) if w else None for", "[self.memory.array(str(w)) if w else None for", KEPT),
    # --- two logits in compiled code
    "pair: an impossible cell moves others": Mutant("zlpr_core/_regret.py", "still = pair.q_infinite, values > largest(values.dtype, xp=xp)", "still = (pair.q_infinite,)", PAIRED),
    "pair ops: no row is recomputed": Mutant(PAIR_OPS, "repair(_call_of(*call), Inputs(p, q, target, Options(mask)), values, (None, None), None)", "pass", FUSED),
    "pair ops: no gradient is recomputed": Mutant(PAIR_OPS, "repair(_call_of(*call), Inputs(p, q, target, Options(mask)), values.clone(), (in_p, in_q), upstream)", "pass", FUSED),
    "pair ops: mean forgotten": Mutant(PAIR_OPS, 'if call.reduction == "mean":', "if False:", FUSED),
    "pair ops: options of R-Drop": Mutant(DISPATCH, "(target is None or options.are_default)", "True", FUSED),
    "pair ops: sums lane by lane": Mutant(CPU_TERMS, "cells.sum(1, True, dtype=torch.float64).to(cells.dtype)", "cells.sum(1, True)", FUSED),
    "pair ops: losses beyond the range": Mutant(CPU_DIVERGENCES, "torch.where(losses < LIMIT[self.dtype], losses, torch.nan)", "losses", FUSED),
    # --- a linear layer and its loss
    "linear: a chunk's own sums": Mutant(CHUNKS, "gradient = gradient_of(kernel, chunk, sums, each)", "write_sums(kernel, chunk, sums := sums.clone())\n        gradient = gradient_of(kernel, chunk, sums, each)", LINEARLY),
    "linear: rows out of range by the kernel": Mutant(CPU_CHUNKS, "(~(finite & are_in_range(chunk, sums)))", "(~finite)", LINEARLY),
    "linear: rows with an infinite logit by the kernel": Mutant(CPU_CHUNKS, "(~(finite & are_in_range(chunk, sums)))", "(~are_in_range(chunk, sums))", LINEARLY),
    "linear: sums of rows out of range by the kernel": Mutant(CPU_CHUNKS, "to[redo] = exact", "pass", LINEARLY),
    "linear: blocks of a part": Mutant(CPU_CHUNKS, "upstream, of_part=True)", "upstream)", GIVEN),
    "linear: half precision rounded where all logits fit": Mutant(LINEAR_AUTOGRAD, "    if not input.is_cpu:\n        dtype", "    if True:\n        dtype", LINEARLY),
    "linear: gradients that nobody wants": Mutant(LINEAR, "if not is_counted or not any(x is not None and x.requires_grad for x in layer):", "if not is_counted:", GIVEN),
    "sharded: ranges are not compared": Mutant(GROUP, "_check_parts([_read(each[:, -DIGITS:]) for each in gathered])", "pass", SHARDEDLY),
    "ids: positives among the negatives": Mutant(CPU_IDS, "    logits[positives.rows, positives.classes] = 0.0\n", "", (*LINEARLY, *GIVEN)),
    "ids: exponentials taken for logits": Mutant(CPU_CHUNKS, "[rows], logits=chunk.product(rows))", "[rows], logits=chunk.logits[rows])", GIVEN),
    "ids: a positive's exponential is not kept": Mutant(CPU_IDS, "    logits[positives.rows, positives.classes] = pulls\n", "", GIVEN),
    "ids: logits row by row": Mutant(CPU_CHUNKS, "return layer.has_ids_alone and len(layer.input) < size", "return False", GIVEN),
    "ids: bool targets of one row": Mutant(IDS, "if most * len(hot) > hot.numel() // FEW:", "if False:", GIVEN),
    "ids: an id that is there twice counts twice": Mutant(CPU_IDS, "torch.unique(ids.ids[kept].long() * len(kept) + rows)", "(ids.ids[kept].long() * len(kept) + rows).sort().values", GIVEN),
    "linear: logits read when the gradient is in their place": Mutant(LINEAR_AUTOGRAD, "logits, ctx.logits = ctx.logits, None", "logits = ctx.logits", GIVEN),
    "linear: logits beyond their part of the gradient": Mutant(CHUNKS, "layer.input.is_cpu and rows <= features and", "layer.input.is_cpu and", LINEARLY),
    "DTensor: mean of the own rows": Mutant(DTENSOR, "value / sharding.number_of_rows(own) if is_share", "value / len(own['input']) if is_share", PLACED),
    "DTensor: shares of a gradient not summed": Mutant(DTENSOR, "[Partial() if lack else place for lack", "[place for lack", PLACED),
    "sharded: the own sums only": Mutant(SHARDED, "torch.stack(exchange_sums(mine, group, part))", "torch.stack([mine for _ in exchange_sums(mine, group, part)])", SHARDEDLY),
    "sharded: nobody learns that a call failed": Mutant(GROUP, "            _tell(given, error)\n", "", SHARDEDLY),
    "sharded: nobody looks whether a call failed": Mutant(GROUP, "    if any(failed):", "    if False:", SHARDEDLY),
    "sharded: a call that failed tells no mask": Mutant(GROUP, "shape = 4 + is_masked, rows", "shape = 4, rows", SHARDEDLY),
    "sharded: a call that failed tells float32": Mutant(GROUP, "dtype = computing_dtype(input, given.get(\"linear_weight\", input))", "dtype = torch.float32", SHARDEDLY),
    "sharded: a call that failed forgets what is ignored": Mutant(GROUP, " or given.get(\"ignore_index\") is not None", "", SHARDEDLY),
    "sharded: a call that failed has rows by a wrong dimension": Mutant(GROUP, "axes = (input.dim() - 1,) if of_ids_or_layer else class_axes(", "axes = (input.dim() - 1,) if \"linear_weight\" in given else class_axes(", SHARDEDLY),
    "sharded: a hook that raises": Mutant(LINEAR_AUTOGRAD, "        if is_summed:  # the user's", "        if False:  # the user's", SHARDEDLY),
    "linear: other devices": Mutant(LINEAR, "tensor.dim() and tensor.device != like.device:", "False:", GIVEN),
    "linear: a hook that cannot be called": Mutant(LINEAR, "if hook is not None and not callable(hook):", "if False:", (*GIVEN, *LINEARLY)),
    "linear: a budget of 0": Mutant("zlpr_torch/_plan.py", "and budget > 0):", "and budget >= 0):", (*GIVEN, *LINEARLY)),
    "sharded: inputs' gradient not summed": Mutant(LINEAR_AUTOGRAD, "distributed.all_reduce(found[0], group=call.group)", "pass", SHARDEDLY),
    "linear: bias not cut": Mutant(CHUNKS, "layer.bias[first:last]", "layer.bias[: last - first]", LINEARLY),
    "linear: the hook gets nothing": Mutant(CHUNKS, "wanted.hook(part, (gradient.t() @ layer.input).to(layer.weight.dtype))", "pass", LINEARLY),
    "linear: the mean of all rows": Mutant(LINEAR_AUTOGRAD, "(len(layer.input) if labelled is None else number_of(labelled))", "len(layer.input)", LINEARLY),
    "linear: a second backward adds to the first": Mutant(LINEAR_AUTOGRAD, "made, ctx.gradients = ctx.gradients, None", "made = ctx.gradients", LINEARLY),
    "linear op: the plan's budget forgotten": Mutant(LINEAR_OPS, "given.memory_budget, rounded=", "None, rounded=", COMPILED),
    "linear op: rows without a label": Mutant(LINEAR_OPS, "labelled if given.says_which_rows_count else None", "None", COMPILED),
    "linear op: a gradient in the options, silently": Mutant(LINEAR_OPS, "if any(ctx.needs_input_grad[3:]):", "if False:", COMPILED),
    "linear op: second order of a constant": Mutant(LINEAR_OPS, "if torch.is_grad_enabled():", "if False:", COMPILED),
    "linear: upstream gradient forgotten": Mutant(LINEAR_AUTOGRAD, "gradient.mul_(upstream) for gradient", "gradient for gradient", LINEARLY),
    "linear: memory for a gradient that nobody wants": Mutant(LINEAR, "    if not torch.is_grad_enabled():\n        # Function", "    if False:\n        # Function", GIVEN),
    "linear: rows though a mask decides the mean": Mutant(LINEAR, "if not is_counted or not any(x", "if not any(x", LINEARLY),
}  # fmt: skip
