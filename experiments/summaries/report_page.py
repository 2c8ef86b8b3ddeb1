"""One page of HTML that needs nothing else: texts, tables, pictures in it."""

import base64
import html
import io
from typing import NamedTuple

from nasjax.decoding import scripts

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
figcaption, .small { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd;
  text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


class Section(NamedTuple):
  """A heading and what stands under it, blocks of HTML."""

  title: str
  blocks: list[str]


def paragraph(*sentences):
  """Returns a block of text; empty sentences are left out."""
  text = ' '.join(filter(None, sentences))
  auto = ' dir="auto"' if scripts.right_to_left(text) else ''
  return f'<p{auto}>{html.escape(text)}</p>'


def table(head, rows):
  """Returns a table of texts, the first column to the left."""

  def line(cells, tag):
    inside = ''.join(
      f'<{tag} dir="auto">{html.escape(c)}</{tag}>'
      if scripts.right_to_left(c)
      else f'<{tag}>{html.escape(c)}</{tag}>'
      for c in cells
    )
    return f'<tr>{inside}</tr>'

  lines = [line(head, 'th'), *(line(row, 'td') for row in rows)]
  return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def figure(fig, caption, dpi=110):
  """Returns a matplotlib Figure as a picture inside the page."""
  payload = io.BytesIO()
  fig.savefig(payload, format='png', dpi=dpi, facecolor='white')
  data = base64.b64encode(payload.getvalue()).decode()
  text = html.escape(caption)
  return (
    f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
    f'<figcaption>{text}</figcaption></figure>'
  )


def page(title, sections, refresh=None):
  """Returns the whole page, as text.

  Args:
    title: of the page.
    sections: list of Section.
    refresh: seconds after which a browser reads it again; never if not given.
  """
  again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ''
  body = ''.join(
    f'<section><h2>{html.escape(s.title)}</h2>{"".join(s.blocks)}</section>\n'
    for s in sections
  )
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta name="viewport" content="width=device-width">{again}'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body><h1>{html.escape(title)}</h1>\n{body}</body></html>\n'
  )
