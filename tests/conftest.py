"""Settings of every test: two CPU devices, strict rank promotion."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=2']
)

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
