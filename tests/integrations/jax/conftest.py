"""Eight devices on any machine; JAX counts them when it is first used."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
