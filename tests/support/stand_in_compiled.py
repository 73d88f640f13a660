"""A pytest plugin by which a CPU passes for the GPU of "torch-cuda", and PyTorch stays as it is, as Dynamo wants it."""

import harness.pytorch

harness.pytorch.is_there = lambda: True
harness.pytorch.CudaTorch.device = "cpu"
