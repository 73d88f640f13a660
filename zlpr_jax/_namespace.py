"""JAX spelled as ``zlpr_core.Namespace``."""

import jax.numpy

from zlpr_core._namespace import namespace_from

xp = namespace_from(jax.numpy, dialect={"targets": "labels"})
