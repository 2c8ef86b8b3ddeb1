"""Where the numbers of the released NAS-Bench-ASR code lie, if anywhere."""

import os
import pathlib

import pytest

_DEFAULT = pathlib.Path(__file__).parents[3] / 'shared' / 'reference'
DIRECTORY = pathlib.Path(os.environ.get('NASJAX_REFERENCE_DIR', _DEFAULT))
needed = pytest.mark.skipif(
  not (DIRECTORY / 'nb-asr').is_dir(),
  reason=f'no reference numbers in {DIRECTORY} (set NASJAX_REFERENCE_DIR)',
)
