"""Where a result comes from: versions, device, commit of the code."""

import os
import pathlib
import platform
import subprocess

import flax
import jax

import nasjax


def versions():
  """Returns what else a result depends on: versions and device."""
  device = jax.devices()[0]
  return {
    'nasjax': nasjax.__version__,
    'jax': jax.__version__,
    'flax': flax.__version__,
    'python': platform.python_version(),
    'device': f'{len(jax.devices())} x {device.device_kind}',
  }


def environment():
  """Returns the settings of JAX and its compilers in the environment."""
  names = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
  return {
    name: value
    for name, value in sorted(os.environ.items())
    if value and (name in names or name.startswith('JAX_'))
  }


def commit():
  """Returns the commit of the code, marked if the tree differs from it."""
  root = pathlib.Path(__file__).resolve().parents[2]

  def git(*words):
    return subprocess.run(
      ['git', '-C', str(root), *words],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # Installed inside another project, that one's commit says nothing.
    if pathlib.Path(git('rev-parse', '--show-toplevel')).resolve() != root:
      return 'unknown'
    return git('describe', '--always', '--dirty', '--abbrev=40', '--exclude=*')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
