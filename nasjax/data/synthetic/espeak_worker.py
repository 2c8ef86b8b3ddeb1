"""A process that speaks with eSpeak NG and answers over its pipes.

eSpeak NG is licensed under the GPL. It is loaded here, in a process of its own
that imports nothing of nasjax, and is never linked to or imported by the rest.
Run by `nasjax.data.synthetic.espeak.Espeak`, as a plain file.

One request is one line of JSON on standard input:

  {"text": ..., "voice": 'en-us+m3', "rate": 175, "pitch": 50, "range": 50}

rate in words a minute, pitch and range from 0 to 99. The answer on standard
output is one line of JSON, {"bytes": n, "events": [[sample, name], ...]}, and n
bytes of 16-bit mono audio; or {"error": message}. Events are the phones by
their IPA names, with the sample each begins at. The first line written, before
any request, is {"version": ..., "rate": samples a second}.

eSpeak NG keeps state from one utterance to the next (the phase of the voice
source, filters, random numbers), so the same words come out differently the
second time. Each request is therefore spoken by a fork of the process as it was
just after initialisation: equal requests have byte-equal answers, whatever was
spoken before.
"""

import ctypes
import json
import os
import signal
import sys

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: audio goes to the callback.
_PHONEME_EVENTS = 1 | 2  # Events for phones, named in IPA.
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_END, _PHONEME = 0, 7
_NEUTRAL = {'rate': 175, 'pitch': 50, 'range': 50}


class _Id(ctypes.Union):
  _fields_ = [
    ('number', ctypes.c_int),
    ('name', ctypes.c_char_p),
    ('string', ctypes.c_char * 8),
  ]


class _Event(ctypes.Structure):
  _fields_ = [
    ('type', ctypes.c_int),
    ('unique_identifier', ctypes.c_uint),
    ('text_position', ctypes.c_int),
    ('length', ctypes.c_int),
    ('audio_position', ctypes.c_int),
    ('sample', ctypes.c_int),
    ('user_data', ctypes.c_void_p),
    ('id', _Id),
  ]


_CALLBACK = ctypes.CFUNCTYPE(
  ctypes.c_int,
  ctypes.POINTER(ctypes.c_short),
  ctypes.c_int,
  ctypes.POINTER(_Event),
)


def _load():
  """Loads and initialises the library; returns it with its sampling rate."""
  import espeakng_loader

  library = ctypes.CDLL(espeakng_loader.get_library_path())
  # The library cuts paths at 160 characters: it gets a short, relative one.
  os.chdir(os.path.dirname(espeakng_loader.get_data_path()))
  rate = library.espeak_Initialize(
    _SYNCHRONOUS, 0, b'.', _PHONEME_EVENTS | _DONT_EXIT
  )
  if rate <= 0:
    raise RuntimeError(f'espeak_Initialize returned {rate}')
  # Speaking once before any fork loads the dictionary for all of them.
  _speak(library, {'text': 'Yes.', 'voice': 'en-us', **_NEUTRAL})
  return library, rate


def _speak(library, request):
  """Returns (audio, events) of one request."""
  audio, events = [], []

  def collect(wave, count, event):
    if count > 0:
      audio.append(ctypes.string_at(wave, 2 * count))
    i = 0
    while event[i].type != _END:
      if event[i].type == _PHONEME:
        name = event[i].id.string.decode('utf-8', errors='replace')
        events.append([event[i].sample, name])
      i += 1
    return 0

  callback = _CALLBACK(collect)
  library.espeak_SetSynthCallback(callback)
  if library.espeak_SetVoiceByName(request['voice'].encode()) != 0:
    raise RuntimeError(f'eSpeak NG has no voice {request["voice"]!r}')
  library.espeak_SetParameter(_RATE, request['rate'], 0)
  library.espeak_SetParameter(_PITCH, request['pitch'], 0)
  library.espeak_SetParameter(_RANGE, request['range'], 0)
  library.espeak_ng_SetRandSeed(ctypes.c_long(1))
  text = request['text'].encode()
  status = library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
  if status != 0:
    raise RuntimeError(f'espeak_Synth returned {status}')
  library.espeak_Synchronize()
  return b''.join(audio), events


def _write(header, payload=b''):
  """Writes one answer in full."""
  sys.stdout.buffer.write(json.dumps(header).encode() + b'\n' + payload)
  sys.stdout.buffer.flush()


def _answer_in_fork(library, line):
  """Answers one request from a copy of this process."""
  child = os.fork()
  if child == 0:
    try:
      audio, events = _speak(library, json.loads(line))
      _write({'bytes': len(audio), 'events': events}, audio)
    except Exception as error:
      _write({'error': f'{type(error).__name__}: {error}'})
    os._exit(0)
  status = os.waitpid(child, 0)[1]
  if status != 0:
    # Only a crash inside the library ends without an answer.
    _write({'error': f'eSpeak NG ended with status {status} on {line!r}'})


def main():
  """Answers requests until standard input is closed."""
  # An interrupt is for the parent, which then closes the pipe.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    library, rate = _load()
  except Exception as error:
    _write({'error': f'{type(error).__name__}: {error}'})
    return
  library.espeak_Info.restype = ctypes.c_char_p
  _write({'version': library.espeak_Info(None).decode(), 'rate': rate})
  for line in sys.stdin:
    _answer_in_fork(library, line)


if __name__ == '__main__':
  main()
