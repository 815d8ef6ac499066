"""A small server of OpenAI's chat protocol for tests; it can be slow, busy, broken, or hang up."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


class ChatServer:
    """Answers "The dress is W wide." for a photo of width W, after the faults in ``faults``, one a request.

    A fault is an HTTP status, "drop" (hang up), "half" (hang up in mid-answer), "slow" (a second late), "nonsense" (not JSON),
    "null" (no text), "length" (cut at the token limit), or the whole answer as a dict. ``refuses`` maps names of parameters to
    what the server says to a request that has them. ``always`` is a fault for photos of one width: {31: 500}.
    """

    def __init__(self, faults=(), always=None, delay=0.0, models=("parrot",), retry_after=None, refuses=None):
        self.faults, self.always, self.delay, self.models = list(faults), always or {}, delay, models
        self.retry_after, self.refuses = retry_after, refuses or {}
        self.lock = threading.Lock()
        self.widths, self.bodies, self.headers = [], [], []
        self.running = self.most_running = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.reply(self, 200, {"data": [{"id": name} for name in outer.models]} if outer.models else None)

            def do_POST(self):
                outer.post(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def post(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        width = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).width
        with self.lock:
            fault = self.always.get(width) or (self.faults.pop(0) if self.faults else None)
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        time.sleep(1.0 if fault == "slow" else self.delay)
        with self.lock:
            self.running -= 1
        choice = {"message": {"content": f"The dress is {width} wide."}, "finish_reason": "stop"}
        if fault == "null":
            choice["message"]["content"] = None
        if fault == "length":
            choice |= {"message": {"content": "The dress is red. It has"}, "finish_reason": "length"}
        refused = [said for name, said in self.refuses.items() if name in body]
        if refused:
            self.reply(handler, 400, {"error": {"message": refused[0]}})
        elif isinstance(fault, dict):
            self.reply(handler, 200, fault)
        elif fault == "drop":
            handler.connection.close()
        elif isinstance(fault, int):
            self.reply(handler, fault, {"error": f"no, {handler.headers['Authorization']}"})
        else:
            if fault not in ("null", "nonsense", "half", "slow"):
                self.widths.append(width)
            self.reply(handler, 200, {"choices": [choice]}, fault)

    def reply(self, handler, status, value, fault=None):
        content = b"<html>" if fault == "nonsense" else json.dumps(value).encode()
        handler.send_response(status if value is not None else 404)
        handler.send_header("Content-Length", str(len(content)))
        if status == 307:
            handler.send_header("Location", "http://127.0.0.1:9/elsewhere")
        if self.retry_after and status == 429:
            handler.send_header("Retry-After", self.retry_after)
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault == "half" else content)
        if fault == "half":
            handler.wfile.flush()
            handler.connection.close()
