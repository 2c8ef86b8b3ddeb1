"""Energy that NVIDIA's devices have taken, as they count it themselves.

By NVML, the library of the driver: there is nothing to install where there is a
device. Other devices do not tell.
"""

import ctypes
import functools

_LIBRARY = 'libnvidia-ml.so.1'


class _SilentError(Exception):
  """NVML does not tell; says why."""


def joules():
  """Returns what all devices took since the driver was loaded, or None.

  The energy of what runs is a difference of two. Others on the same devices
  are counted, too.
  """
  try:
    return _counted(_nvml())
  except _SilentError:
    return None


def why_not():
  """Returns why `joules` is None, in a line; None where it is not."""
  try:
    _counted(_nvml())
  except _SilentError as e:
    return str(e)
  return None


@functools.cache
def _load(library):
  try:
    nvml = ctypes.CDLL(library)
  except OSError:
    return None
  return None if nvml.nvmlInit_v2() else nvml


def _nvml():
  nvml = _load(_LIBRARY)
  if nvml is None:
    raise _SilentError(
      f'energy is not known: no NVML on this machine ({_LIBRARY}), which '
      "counts what NVIDIA's devices take"
    )
  return nvml


def _counted(nvml):
  count = ctypes.c_uint()
  _asked(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), 'count of devices')
  if not count.value:
    raise _SilentError('energy is not known: NVML counts no device')
  total = 0
  for n in range(count.value):
    device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    _asked(
      nvml.nvmlDeviceGetHandleByIndex_v2(n, ctypes.byref(device)),
      f'device {n}',
    )
    _asked(
      nvml.nvmlDeviceGetTotalEnergyConsumption(
        device, ctypes.byref(millijoules)
      ),
      f'energy of device {n}',
    )
    total += millijoules.value
  return total / 1000


def _asked(status, what):
  if status:
    raise _SilentError(
      f'energy is not known: NVML does not tell the {what} (status {status})'
    )
