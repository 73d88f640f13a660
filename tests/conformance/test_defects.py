"""What goes wrong in the ZLPR code that people paste, input by input. D1 to D18 are numbers of defects, one each."""

import numpy as np
import oracle
import pytest

INF, NAN = float("inf"), float("nan")


def check(backend, mode, logits, targets, expected, dtype="float32", rtol=1e-6, **options):
    """``expected`` to its few digits, the oracle to ``rtol``, and gradients that are finite and of the right sign."""
    targets = np.asarray(targets)
    np.testing.assert_allclose(backend.loss(logits, targets, dtype, mode=mode, **options), expected, rtol=5e-3)
    if not options:
        true = [float(oracle.zlpr(s, t)) for s, t in zip(logits, targets.astype(float).tolist(), strict=True)]
        np.testing.assert_allclose(backend.loss(logits, targets, dtype, mode=mode), true, rtol=rtol)
    grad = backend.grad(logits, targets, dtype, mode=mode, **options)
    assert np.isfinite(grad).all()
    assert (grad[targets == 1] <= 0).all()
    assert (grad[targets == 0] >= 0).all()


D1 = {5.0: 0.0528, 10.0: 0.04613, 12.0: 0.04609, 16.0: 0.04609, 20.0: 0.04609, 90.0: 0.04609}


def sparse(backend, mode, logits, ids, dtype="float32", **options):
    """Loss of class ids, and its gradient where there is one."""
    arguments = {"logits": np.asarray(logits), "indices": np.asarray(ids), "mode": mode, **options}
    loss = backend.value("sparse_zlpr", dtype, **arguments)
    return loss, backend.slope("sparse_zlpr", "logits", dtype, **arguments) if backend.autodiff else None


@pytest.mark.parametrize("score", D1)
def test_d1_confident_positives_are_not_pushed_down(backend, dtype, mode, score):
    logits = np.asarray([[score] + [-5.0] * 7])
    loss, grad = sparse(backend, mode, logits, [[0]], dtype)
    np.testing.assert_allclose(loss, [D1[score]], rtol=1e-3)
    np.testing.assert_allclose(loss, [float(oracle.zlpr(logits[0], [1] + [0] * 7))], rtol=5e-7)
    if grad is not None:
        assert (grad[:, 0] <= 0).all()
        np.testing.assert_allclose(grad[0, 0], -np.exp(-score), rtol=1e-2, atol=1e-7)
        assert (grad[:, 1:] > 0).all()


def test_d1_a_realistic_token_pair_matrix(backend, mode):
    logits = np.random.default_rng(0).normal(-12, 1, (1, 128 * 128))
    logits[0, [5, 700, 9000]] = 9.0, 11.0, 13.0
    loss, grad = sparse(backend, mode, logits, [[5, 700, 9000]], "float64")
    hot = np.isin(np.arange(128 * 128), [5, 700, 9000])
    np.testing.assert_allclose(loss, [float(oracle.zlpr(logits[0], hot.tolist()))], rtol=1e-12)
    if grad is not None:
        np.testing.assert_allclose(grad[0, [5, 700, 9000]], -np.exp([-9.0, -11.0, -13.0]), rtol=1e-3)


def test_d1_the_reported_negative_loss(backend, mode):
    """A masked cell, one confident positive: reported as -0.0017."""
    where = np.asarray([[False, True, True]])
    loss, _ = sparse(backend, mode, [[-INF, 9.048806, -27.048492]], [[1]], where=where)
    np.testing.assert_allclose(loss, [0.000118], rtol=1e-2)


def test_d2_ids_are_a_set_and_every_class_counts(backend, mode):
    loss, _ = sparse(backend, mode, [[-1.0, -2.0, -3.0, 2.0]], [[3, 3]])
    np.testing.assert_allclose(loss, [0.567], rtol=1e-3)
    loss, _ = sparse(backend, mode, [[-9.0, -9.0]], [[0]])
    np.testing.assert_allclose(loss, [9.0], rtol=1e-3)
    loss, _ = sparse(backend, mode, [[2.0, -1.0, -3.0]], [[0, -1]])
    np.testing.assert_allclose(loss, [0.476], rtol=1e-3)


def test_d2_one_past_the_end_is_no_class(backend):
    tensors = backend.tensors("float32", logits=np.asarray([[2.0, -1.0, -3.0]]), indices=np.asarray([[0, 3]]))
    if backend.hides_ids:
        assert np.isnan(backend.numpy(backend.call("sparse_zlpr", tuple(tensors.values()), {}))).all()
        return
    with pytest.raises(IndexError, match=r"Received: 3 at \[0, 1\]"):
        backend.call("sparse_zlpr", tuple(tensors.values()), {})


def test_d3_several_ids_beside_a_pad(backend, mode):
    loss, _ = sparse(backend, mode, [[1.0, 2.0, -3.0]], [[2, 0, -1]])
    np.testing.assert_allclose(loss, [float(oracle.zlpr([1.0, 2.0, -3.0], [1, 0, 1]))], rtol=5e-7)


def test_d4_soft_labels_are_not_silently_zero(backend, mode):
    check(backend, mode, [[-8.0, 8.0]], [[0.95, 0.05]], [15.90])
    check(backend, mode, [[3.0, -2.0, 0.5, -4.0]], [[0.9, 0.1, 0.9, 0.1]], [3.25])
    assert np.abs(backend.grad([[-8.0, 8.0]], np.asarray([[0.95, 0.05]]), mode=mode)).min() > 0.5


def test_d5_label_on_a_masked_cell(backend, dtype, mode):
    """A label on a cell that is cut off, as of a truncated span: +inf by a logit of -inf, nothing by ``where``."""
    logits, targets = [[3.0, -INF, 0.5], [3.0, -INF, 0.5]], np.asarray([[1, 1, 0], [1, 0, 0]])
    got = backend.loss(logits, targets, dtype, mode=mode)
    assert got[0] == INF
    assert np.isfinite(got[1])
    where = np.isfinite(logits)
    masked = backend.loss(logits, targets, dtype, mode=mode, where=where)
    np.testing.assert_array_equal(masked, got[1])
    soft = backend.loss(logits, np.asarray([[1.0, 0.5, 0.0]] * 2), dtype, mode=mode)
    np.testing.assert_array_equal(soft, INF)


def test_d6_half_precision_is_not_nan(backend, dtype, mode):
    check(backend, mode, [[3.0, -2.0, 0.5, -4.0]], [[1, 0, 1, 0]], [0.6475], dtype)


def test_d7_soft_labels_a_hair_outside(backend, mode):
    got = backend.loss(
        [[2.0, -1.0]] * 3, np.asarray([[1.0000001, 0.0], [1.0, -1e-9], [1.0, 0.0]]), "float32", mode=mode
    )
    np.testing.assert_array_equal(got, got[2])


@pytest.mark.needs("autodiff")
def test_d7_gradient_in_the_label_is_finite_at_0_and_1(backend, mode):
    targets = np.asarray([[1.0, 0.0, 1.0]])
    got = backend.grad([[3.0, -2.0, 0.5]], targets, wrt="targets", mode=mode)
    true = [float(g) for g in oracle.zlpr_target_grad([3.0, -2.0, 0.5], targets[0])]
    np.testing.assert_allclose(got[0], true, rtol=1e-13)


def test_d8_large_finite_mask_and_smoothing(backend, mode):
    """A mask made of a logit of -1e7 is a confident logit, and smoothing makes it cost as one; ``where`` takes it out."""
    logits, targets = [[2.0, -1e7]], np.asarray([[0.95, 0.05]])
    np.testing.assert_allclose(backend.loss(logits, targets, mode=mode), [1e7], rtol=1e-5)
    got = backend.loss(logits, targets, mode=mode, where=np.asarray([[True, False]]))
    np.testing.assert_allclose(got, [float(oracle.zlpr([2.0], [0.95]))], rtol=1e-13)
    check(backend, mode, [[2.0, -1e4]], [[1.0, 0.0]], [0.1269])


@pytest.mark.parametrize("kind", ["uint8", "int8", "bool", "int64"])
def test_d9_label_dtype(backend, mode, kind):
    check(backend, mode, [[3.0, -2.0, 0.5, -4.0]], np.asarray([[1, 0, 1, 0]]).astype(kind), [0.6475])


@pytest.mark.needs("adapter")
def test_d10_ignore_index_keeps_rows_apart(backend, mode):
    logits = [[5.0, -5.0, 4.0, -4.0], [-3.0, 3.0, -2.0, 2.0]]
    got = backend.loss(logits, np.asarray([[1, 0, -100, -100], [-100, -100, 0, 1]]), mode=mode, ignore_index=-100)
    np.testing.assert_allclose(got, [0.0134, 0.2539], rtol=5e-3)
    got = backend.loss(logits, np.asarray([[1, 0, -100, 0], [0, 1, 0, 1]]), mode=mode, ignore_index=-100)
    assert np.isfinite(got).all()


def test_d11_examples_do_not_mix(backend, mode):
    check(backend, mode, [[4.0, -4.0], [-4.0, 4.0]], [[1, 0], [0, 1]], [0.0363, 0.0363])


def test_d12_no_overflow(backend, dtype, mode):
    check(backend, mode, [[-89.0, 0.0]], [[1, 0]], [89.6931], dtype)
    check(backend, mode, [[-11.5, 0.0]], [[1, 0]], [12.1932], dtype)


def test_d13_masked_cells_add_nothing(backend, mode):
    logits = np.where(np.arange(14) == 3, 4.0, -4.0)[None] / 0.2
    targets = (np.arange(14) == 3).astype(int)[None]
    check(backend, mode, logits, targets, [2.885e-8])


def test_d14_scale_is_that_of_one_example(backend, mode):
    got = backend.loss(np.zeros((2, 128 * 128)), np.zeros((2, 128 * 128), int), mode=mode)
    np.testing.assert_allclose(got, np.log(1 + 128 * 128), rtol=1e-13)


def test_d15_threshold_moves_the_boundary_the_right_way(backend, mode):
    """Asking more of a positive costs more."""
    got = [backend.loss([[0.5]], np.asarray([[1]]), mode=mode, threshold=theta)[0] for theta in (0.0, 1.0)]
    np.testing.assert_allclose(got, [0.474, 0.974], rtol=1e-3)


def test_d16_confident_mistakes_keep_their_gradient(backend, dtype, mode):
    grad = backend.grad([[-19.0, 120.0], [-120.0, -20.7]], np.asarray([[1, 0], [1, 0]]), dtype, mode=mode)
    np.testing.assert_allclose(grad[:, 0], -1, rtol=1e-3)
    np.testing.assert_allclose(grad[0, 1], 1, rtol=1e-3)


def test_d17_axes_can_be_named(backend, mode):
    logits = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8))
    targets = logits > 1.5
    got = backend.loss(logits, targets, mode=mode, axis=(-2, -1))
    flat = backend.loss(logits.reshape(2, 3, 64), targets.reshape(2, 3, 64), mode=mode)
    np.testing.assert_allclose(got, flat, rtol=1e-14)


@pytest.mark.spare
def test_d18_a_pad_in_both_logits_is_zero(backend, dtype, mode):
    pads = np.asarray([[-INF, 1.0]])
    for name in ("kl_divergence", "symmetric_kl_divergence", "zlpr_divergence"):
        got = backend.value(name, dtype, mode=mode, p_logits=pads, q_logits=pads)
        np.testing.assert_array_equal(got, 0)


@pytest.mark.spare
def test_d18_far_apart_is_a_number(backend, dtype):
    far = np.asarray([[60000.0]])
    got = backend.value("symmetric_kl_divergence", dtype, p_logits=far, q_logits=-far)
    np.testing.assert_allclose(got, [120000.0], rtol=5e-3)
