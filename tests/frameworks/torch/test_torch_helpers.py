"""The helpers in PyTorch's words: they take what ``torch.as_tensor`` takes, and compile."""

import numpy as np
import pytest
import torch
import torch._dynamo

import zlpr_torch

torch.manual_seed(0)
LOGITS = torch.randn(6, 5, dtype=torch.float64) * 3
HARD = torch.rand(6, 5) < 0.4
SOFT = torch.rand(6, 5, dtype=torch.float64)
HELPERS = {
    "predict": (lambda x: zlpr_torch.predict(x, threshold=[0.5] * 5, at_least_one=True, dim=1), LOGITS),
    "probabilities": (zlpr_torch.probabilities, LOGITS),
    "smooth_labels": (lambda t: zlpr_torch.smooth_labels(t, 0.1, mode="positive"), SOFT),
    "zlpr_entropy": (lambda t: zlpr_torch.zlpr_entropy(t, dim=1, mask=HARD), SOFT),
    "multi_hot": (lambda ids: zlpr_torch.multi_hot(ids, 5), torch.tensor([[0, -1], [4, 2]])),
    "span_to_index": (lambda at: zlpr_torch.span_to_index(at, at, 7), torch.tensor([3, -1])),
    "index_to_span": (lambda at: zlpr_torch.index_to_span(at, 7), torch.tensor([3, -1])),
}


@pytest.mark.parametrize(("helper", "x"), HELPERS.values(), ids=HELPERS)
def test_helpers_take_what_torch_takes_and_compile(helper, x):
    torch._dynamo.reset()
    expected = helper(x)
    torch.testing.assert_close(torch.compile(helper, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(helper(x.numpy()), expected)
    torch.testing.assert_close(helper(x.tolist()), expected, check_dtype=False)


def test_targets_as_arrays_are_checked():
    zlpr_torch.check_targets(np.asarray([[0, 1], [1, -1]]), ignore_index=-1)
    with pytest.raises(ValueError, match=r"Received: 7.0 at \[1, 1\]"):
        zlpr_torch.check_targets([[0.0, 1.0], [0.5, 7.0]])
