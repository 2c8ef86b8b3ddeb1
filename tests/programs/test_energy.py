"""Energy by a library in NVML's place, and without one."""

import ctypes
import re

import pytest

from nasjax.programs import energy


class Library:
  """Two devices, or none; status 3 is what older devices answer."""

  def __init__(self, millijoules, status=0):
    self.millijoules, self.status = millijoules, status

  def nvmlDeviceGetCount_v2(self, found):
    found._obj.value = len(self.millijoules)
    return 0

  def nvmlDeviceGetHandleByIndex_v2(self, n, found):
    assert isinstance(found._obj, ctypes.c_void_p)
    found._obj.value = n + 1
    return 0

  def nvmlDeviceGetTotalEnergyConsumption(self, device, found):
    found._obj.value = self.millijoules[device.value - 1]
    return self.status


def test_sums_up_devices(monkeypatch):
  monkeypatch.setattr(energy, '_load', lambda name: Library([1500, 2**40]))
  assert energy.joules() == 1.5 + 2**40 / 1000
  assert energy.why_not() is None


@pytest.mark.parametrize(
  'library, told',
  [
    (None, 'no NVML on this machine'),
    (Library([]), 'NVML counts no device'),
    (Library([1], status=3), 'energy of device 0 .status 3.'),
  ],
)
def test_says_why_it_is_not_known(monkeypatch, library, told):
  monkeypatch.setattr(energy, '_load', lambda name: library)
  assert energy.joules() is None
  assert re.search(told, energy.why_not())


def test_a_machine_without_the_library_has_none():
  assert energy._load('libnasjax-no-such-thing.so.1') is None
