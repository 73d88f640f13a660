"""One-line breakages of the kernels for a GPU, and of what launches them. By Triton's interpreter."""

from mutations import Mutant

HERE = "integrations/triton/test_triton"
FIRST, TESTS = (f"{HERE}.py",), ("integrations/triton",)
CUDA, KERNELS, PLAN = (f"zlpr_torch/_{name}.py" for name in ("cuda", "triton_kernels", "triton_plan"))
CHUNKS, CUDA_CHUNKS, LINEAR = (f"zlpr_torch/_{name}.py" for name in ("chunks", "cuda_chunks", "linear_autograd"))
LINEARLY, LINEAR_CALLS = (f"{HERE}_linear.py",), (f"{HERE}_linear_calls.py",)
CALLS, SHARED, TOGETHER, ARGUMENTS, GRAPHS = (
    (f"{HERE}_{name}.py",) for name in ("calls", "shared", "combinations", "arguments", "graphs")
)

MUTANTS = {
    # --- the kernels
    "always the quick sum": Mutant(KERNELS, "if tl.maximum(sum_p, sum_n) > 2.0**64:", "if sum_p < 0:"),
    "shifts are not whole": Mutant(KERNELS, "return tl.floor(tl.minimum(tl.max(positives, 0), largest)), tl.floor(", "return (tl.minimum(tl.max(positives, 0), largest)), (", FIRST),
    "the next float64 target beyond 1": Mutant(KERNELS, "tl.full([], 1 + slack, soft.dtype)", "tl.full([], 1 + slack, tl.float32)"),
    "numbers as float32": Mutant(KERNELS, ".to(tl.float64, bitcast=True).to(dtype)", ".to(tl.float64, bitcast=True).to(tl.float32).to(dtype)"),
    "pos_weight alone": Mutant(KERNELS, "weight_p = weight_p * tl.where(keep, w, 0.0)", "weight_p = tl.where(keep, w, 0.0)", TOGETHER),
    "threshold's digits lost": Mutant(KERNELS, "z, lost = _subtract(z, theta)", "z = z - theta"),
    "gradient of infinity": Mutant(KERNELS, "tl.where(tl.abs(z) == float(\"inf\"), 0.0, negative", "tl.where(tl.abs(z) < 0, 0.0, negative", ARGUMENTS),
    "any upstream is the foreseen one": Mutant(KERNELS, "tl.where(tl.load(upstream) == 1.0, 0, chunks)", "chunks * 0", FIRST),
    "the foreseen upstream is not known": Mutant(KERNELS, "tl.where(tl.load(upstream) == 1.0, 0, chunks)", "chunks", FIRST),
    "upstream of the first row": Mutant(KERNELS, "tl.load(upstream + row * upstream_step)", "tl.load(upstream)", FIRST),
    "parts in no order": Mutant(KERNELS, "_store(partial + place.to(tl.int64) * 4,", "_store(partial,", SHARED),
    "parts of one shift": Mutant(KERNELS, "tl.sum(sums * tl.exp(shifts - shift), 0)", "tl.sum(sums, 0)", SHARED),
    "stored too late": Mutant(KERNELS, "        _store(partial + place.to(tl.int64) * 4, shift_p, sum_p, shift_n, sum_n)\n        _meet(counters + 1 + row, parts)\n", "        _meet(counters + 1 + row, parts)\n        _store(partial + place.to(tl.int64) * 4, shift_p, sum_p, shift_n, sum_n)\n", SHARED),
    "rows of 32 bits": Mutant(KERNELS, "row = (place // parts).to(tl.int64)", "row = place // parts", ARGUMENTS),
    "columns of 32 bits": Mutant(KERNELS, "    columns = columns.to(tl.int64)  #", "    #", ARGUMENTS),
    # --- the launches
    "the gradient of none is foreseen": Mutant(CUDA, 'with_gradient=with_gradient and reduction != "none"', "with_gradient=with_gradient", CALLS),
    "a broadcast axis has a stride": Mutant(CUDA, "0 if size == 1 else step for", "step for", TOGETHER),
    "a mean by all examples": Mutant(CUDA, "layout.number_of_rows(input.shape) if labelled is None else number_of(labelled)", "layout.number_of_rows(input.shape)", (*GRAPHS, *CALLS)),
    "it fails again and again": Mutant(CUDA, "    _refused.add(kind)\n", "", CALLS),
    "gradients of a backward that fails": Mutant(CUDA, "    return gradient if done else None", "    return gradient", CALLS),
    "of another device": Mutant(CUDA, "        if option.dim():\n", "        if False:\n", ARGUMENTS),
    # --- the linear loss by chunks
    "linear: marks of the chunk before stay": Mutant(KERNELS, "    _mark(ids, slots, first - size, targets, size, False, block)\n", "", LINEARLY),
    "linear: only the first ids are marked": Mutant(KERNELS, "for start in range(0, slots, block):", "for start in range(0, block, block):", LINEARLY),
    "linear: illegal ids are left out": Mutant(CHUNKS, "return layer.input if illegal is None else", "return layer.input if True else", LINEARLY),
    "linear: rows of illegal ids spoil the weight where they are masked": Mutant(CHUNKS, "torch.mm(gradient.t(), layer.input, out=", "torch.mm(gradient.t(), _spoiled(layer), out=", LINEARLY),
    "linear: the gradient in memory of its own": Mutant(CUDA_CHUNKS, "each, chunk.memory)", "each)", LINEAR_CALLS),
    "linear: sums that are copied": Mutant(CUDA_CHUNKS, "with_gradient=False, sums=to)", "with_gradient=False)", LINEARLY),
    "linear: the mean divides by nothing": Mutant(CUDA_CHUNKS, "losses_of_rows(_cells(chunk), number,", "losses_of_rows(_cells(chunk), 2 * number,", LINEARLY),
    "linear: class ids are not left to the formula": Mutant(CUDA_CHUNKS, "own = memory[:, : len(chunk.weights)] if marked else", "own = memory[:, : len(chunk.weights)] if True else", LINEAR_CALLS),
    "linear: float16 is multiplied as it is": Mutant(LINEAR, "narrow == torch.bfloat16 and", "narrow.itemsize == 2 and", LINEARLY),
    "linear: the gradient of the input is added up in half": Mutant(CHUNKS, "torch.zeros_like(layer.input, dtype=each.dtype)", "torch.zeros_like(layer.input)", LINEARLY),
    "linear: half precision adds up the weight's gradient": Mutant("zlpr_torch/_plan.py", "rows if bytes_a_logit < 4 else", "FEWEST_ROWS if bytes_a_logit < 4 else", LINEARLY),
    "warps of another size": Mutant(PLAN, "max(32 * warps // device.warp_size, 1)", "warps", SHARED),
    "more parts than fit": Mutant(PLAN, "device.multiprocessors // 2, classes", "classes", SHARED),
    "parts of rows that fit": Mutant(PLAN, "0.75 * device.l2_bytes", "0.1 * device.l2_bytes", SHARED),
}  # fmt: skip
