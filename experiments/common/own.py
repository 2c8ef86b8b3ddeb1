"""Python files of one's own, by the flags that name them."""

import functools
import importlib
import importlib.util
import pathlib
import sys
import traceback


def load(told, module):
  """Imports a file, or a module by its name, once; returns it.

  Args:
    told: the flag and its value, as errors begin.
    module: path/file.py, or module as Python imports it from here.

  Raises:
    ValueError: there is none, or what it runs fails; with file and line where
      they are known.
  """
  path = pathlib.Path(module).expanduser()
  if module.endswith('.py') and not path.is_file():
    raise ValueError(f'{told}: there is no file {module}')
  try:
    if not module.endswith('.py'):
      sys.path.append(str(pathlib.Path.cwd()))
      return importlib.import_module(module)
    return _of_file(path.resolve())
  except SyntaxError as e:
    raise ValueError(f'{told}: {e.filename}, line {e.lineno}: {e.msg}') from e
  except Exception as e:
    words, at = ' '.join(str(e).split()), traceback.extract_tb(e.__traceback__)
    # Where it stopped in what was named, not in the libraries that it calls.
    here = [step.lineno for step in at if step.filename == str(path.resolve())]
    line = f'line {here[-1]}: ' if here else ''
    raise ValueError(f'{told}: {line}{type(e).__name__}: {words}') from e


@functools.cache
def _of_file(path):
  # Its neighbours can be imported, as those of a script.
  sys.path.append(str(path.parent))
  spec = importlib.util.spec_from_file_location(path.stem, path)
  held = importlib.util.module_from_spec(spec)
  sys.modules.setdefault(path.stem, held)
  spec.loader.exec_module(held)
  return held
