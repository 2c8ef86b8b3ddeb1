"""Corpora as they lie on people's disks, as lines of a manifest.

Each layout is a function of the directory that fills a `reading.Reading`;
`lines` adds phones, lengths and splits.
"""

from nasjax.data.layouts import common_voice, kaldi, librispeech

LAYOUTS = {
  'librispeech': librispeech.read,
  'common_voice': common_voice.read,
  'kaldi': kaldi.read,
}
