"""Speech and phone events from eSpeak NG, spoken by a separate process."""

import contextlib
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np

_WORKER = pathlib.Path(__file__).with_name('espeak_worker.py')


class Speech(NamedTuple):
  """What eSpeak NG said.

  Attributes:
    audio_t: int16 samples.
    rate: samples a second.
    events: (first sample, IPA name) of every phone event, in order; the names
      carry stress marks, pauses are empty.
  """

  audio_t: np.ndarray
  rate: int
  events: tuple[tuple[int, str], ...]


class Espeak:
  """A running eSpeak NG process; use it in a `with` statement.

  Not safe for use by several threads at once: each takes its own.

  Attributes:
    version: the library's version.
    rate: its sampling rate in Hz.

  Raises:
    RuntimeError: eSpeak NG cannot be loaded.
  """

  def __init__(self):
    # -P keeps the worker's own directory off its import path.
    self._process = subprocess.Popen(
      [sys.executable, '-P', str(_WORKER)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    try:
      hello = self._read()
    except RuntimeError as error:
      self.close()
      raise RuntimeError(
        f'eSpeak NG cannot be loaded ({error}); '
        'install it with: pip install espeakng-loader'
      ) from error
    self.version: str = hello['version']
    self.rate: int = hello['rate']

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    """Ends the process."""
    # If the process has died, words on their way to it no longer matter.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()

  def say(
    self,
    text: str,
    voice: str,
    rate: int = 175,
    pitch: int = 50,
    pitch_range: int = 50,
  ) -> Speech:
    """Speaks a text; equal arguments give byte-equal speech.

    Args:
      text: words and punctuation.
      voice: a language and a variant, for instance 'en-us+m3'.
      rate: words a minute, 80 to 450.
      pitch: 0 to 99, 50 being the voice's own.
      pitch_range: 0 (monotone) to 99, 50 being the voice's own.

    Raises:
      RuntimeError: an unknown voice, or a failure inside eSpeak NG.
    """
    request = {
      'text': text,
      'voice': voice,
      'rate': rate,
      'pitch': pitch,
      'range': pitch_range,
    }
    try:
      self._process.stdin.write(json.dumps(request).encode() + b'\n')
      self._process.stdin.flush()
    except BrokenPipeError as error:
      raise RuntimeError('the process of eSpeak NG has died') from error
    header = self._read()
    audio = self._process.stdout.read(header['bytes'])
    if len(audio) < header['bytes']:
      raise RuntimeError('the process of eSpeak NG died while speaking')
    return Speech(
      np.frombuffer(audio, np.int16),
      self.rate,
      tuple((sample, name) for sample, name in header['events']),
    )

  def _read(self) -> dict:
    """Reads the line that begins an answer."""
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError('the process of eSpeak NG ended without an answer')
    header = json.loads(line)
    if 'error' in header:
      raise RuntimeError(header['error'])
    return header
