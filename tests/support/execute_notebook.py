"""Executes a notebook: python execute_notebook.py NOTEBOOK RESULT

A process of its own, for the client leaves sockets to the garbage collector.
"""

import pathlib
import sys

import nbclient
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager


def main(source, result):
  notebook = nbformat.read(source, as_version=4)
  # With no directories to look in, the one kernel there is is this Python's.
  manager = AsyncKernelManager(
    kernel_name='python3',
    kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
  )
  client = nbclient.NotebookClient(
    notebook,
    km=manager,
    timeout=240,
    resources={'metadata': {'path': str(pathlib.Path(source).parent)}},
  )
  client.execute()
  nbformat.write(notebook, result)


if __name__ == '__main__':
  main(*sys.argv[1:])
