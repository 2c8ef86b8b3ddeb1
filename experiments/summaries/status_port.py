"""How far a run is, at a port, for Prometheus."""

import contextlib
import http.server
import threading

from summaries import status_views


@contextlib.contextmanager
def served(watch, port, errors):
  """Serves /metrics while the block runs; yields the port.

  Args:
    watch: what to look at, for every request.
    port: to listen at; 0 for a free one.
    errors: as in `Watch.look`.

  Raises:
    ValueError: there is somebody at that port.
  """
  lock = threading.Lock()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802  the name is the library's
      if self.path.partition('?')[0] not in ('/', '/metrics'):
        self.send_error(404)
        return
      try:
        with lock:
          text = status_views.prometheus(watch.look(errors))
      except (OSError, ValueError) as e:
        self.send_error(503, explain=str(e))
        return
      payload = text.encode()
      self.send_response(200)
      self.send_header('Content-Type', 'text/plain; version=0.0.4')
      self.send_header('Content-Length', str(len(payload)))
      self.end_headers()
      self.wfile.write(payload)

    def log_message(self, *_):
      pass

  try:
    server = http.server.ThreadingHTTPServer(('', port), Handler)
  except OSError as e:
    raise ValueError(
      f'--prometheus_port={port}: {e.strerror}; give another, or 0'
    ) from None
  with server:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
      yield server.server_address[1]
    finally:
      server.shutdown()
