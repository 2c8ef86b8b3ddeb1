"""Marks tests that need the kernels of `nasjax.kernels`."""

import pytest

from nasjax import kernels

needed = pytest.mark.skipif(
  bool(kernels.why_not()), reason=f'no native kernels: {kernels.why_not()}'
)
KINDS = ['xla', pytest.param('native', marks=needed)]
