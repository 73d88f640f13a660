"""A pytest plugin by which a CPU passes for the GPU of "torch-cuda", and PyTorch stays as it is, as Dynamo wants it."""

import harness.pytorch

harness.pytorch.finds_gpu = lambda: True
harness.pytorch.CudaTorch.device = "cpu"
