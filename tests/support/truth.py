"""What the oracle makes of the cases: values, gradients, and the magnitude of the parts that a gradient is summed of.

It takes a minute to compute, so it is kept on disk for the other workers and backends, until one of the files changes.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import oracle
from cases import PAIRS, TABLES, rounded
from joblib import Memory
from registry import ROOT

SOURCES = [Path(__file__).with_name(name) for name in ("cases.py", "oracle.py", "truth.py")]
VERSION = sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]
kept = Memory(ROOT / ".pytest_cache" / "truth" / VERSION, verbose=0).cache

DIVERGENCES = {
    "kl_divergence": (oracle.kl_divergence, oracle.kl_grad_parts),
    "symmetric_kl_divergence": (oracle.symmetric_kl_divergence, oracle.symmetric_kl_grad_parts),
    "zlpr_divergence": (oracle.zlpr_divergence, oracle.zlpr_divergence_grad_parts),
}


@cache
@kept
def table(name, dtype):
    """Inputs exact in ``dtype``, true losses, true gradients and the magnitude of their parts."""
    logits, targets = (rounded(x, dtype) for x in TABLES[name])
    losses = np.asarray([float(oracle.zlpr(s, t)) for s, t in zip(logits, targets.tolist(), strict=True)])
    parts = [oracle.zlpr_grad_parts(s, t) for s, t in zip(logits, targets.tolist(), strict=True)]
    grads = np.asarray([[float(negative - positive) for positive, negative in row] for row in parts])
    sizes = np.asarray([[float(negative + positive) for positive, negative in row] for row in parts])
    return logits, targets, losses, grads, sizes


@kept
def dense(logits, targets, options):
    wide = {k: np.broadcast_to(v, logits.shape) for k, v in options.items()}
    rows = [
        (s, t, {k: v[i].tolist() for k, v in wide.items()})
        for i, (s, t) in enumerate(zip(logits, targets.tolist(), strict=True))
    ]
    losses = np.asarray([float(oracle.zlpr(s, t, **o)) for s, t, o in rows])
    parts = [oracle.zlpr_grad_parts(s, t, **o) for s, t, o in rows]
    grads = np.asarray([[float(negative - positive) for positive, negative in row] for row in parts])
    return losses, grads, np.asarray([[float(negative + positive) for positive, negative in row] for row in parts])


def scaled(scale):
    return {} if scale is None else {"scale": scale}


@cache
@kept
def divergence(name, pair, dtype, scale):
    """Inputs exact in ``dtype``, values, and for each argument slopes and the magnitude of their parts."""
    p, q = (rounded(x, dtype) for x in PAIRS[pair])
    value, parts = DIVERGENCES[name]
    rows = list(zip(p.tolist(), q.tolist(), strict=True))
    values = np.asarray([float(value(*row, **scaled(scale))) for row in rows])
    slopes, both = {}, [parts(*row, **scaled(scale)) for row in rows]
    for argument, place in (("p_logits", 0), ("q_logits", 1)):
        cells = [row[place] for row in both]
        true = np.asarray([[float(sum(cell)) for cell in row] for row in cells])
        slopes[argument] = true, np.asarray([[float(sum(map(abs, cell))) for cell in row] for row in cells])
    return p, q, values, slopes
