"""A live `moba serve` and raw HTTP to it, with the standard library alone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

MOBA = os.environ.get("MOBA_PROGRAM", "build/cpu/tools/moba")
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
MODEL = os.path.join(ROOT, "configs", "models", "moba-books-19m")
TEMPLATE = os.path.join(ROOT, "tests", "data", "chat", "chatml.jinja")
TIMEOUT = 120  # seconds that any answer may take on a busy machine


class Server:
    """The process, on a port of its own choice."""

    def __init__(self, *flags, wait=True):
        self.folder = tempfile.TemporaryDirectory()
        self.access_log = os.path.join(self.folder.name, "access.jsonl")
        command = [MOBA, "serve", "-m", MODEL, "--port", "0", "--access-log", self.access_log,
                   "--kv-cache-memory", "160M", *flags]
        if "--chat-template" not in flags:
            command += ["--chat-template", TEMPLATE]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        self.ready = threading.Event()
        self.port = None
        self.thread = threading.Thread(target=self._read_log, daemon=True)
        self.thread.start()
        if wait and not self.ready.wait(TIMEOUT):
            raise RuntimeError("the server did not start: " + "".join(self.log))
        if wait and self.port is None:
            raise RuntimeError("the server ended: " + "".join(self.log))

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"serve: .* at http://[^ ]*:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.ready.set()
        self.ready.set()

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        return connection

    def stop(self, with_signal=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            code = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.thread.join(TIMEOUT)
        self.process.stderr.close()
        return code

    def close(self):
        code = self.stop()
        self.folder.cleanup()
        return code

    def records(self):
        with open(self.access_log, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers  # names in lower case
        self.body = body

    def json(self):
        return json.loads(self.body)

    def events(self):
        """The data of server-sent events; [DONE] as a string."""
        found = []
        for event in self.body.decode("utf-8").split("\n\n"):
            if event.startswith("data: "):
                data = event[len("data: "):]
                found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Reader:
    """Reads answers one after another from a socket."""

    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def _more(self):
        piece = self.connection.recv(65536)
        if not piece:
            raise EOFError("the connection was closed")
        self.buffer += piece

    def until(self, mark):
        while mark not in self.buffer:
            self._more()
        part, self.buffer = self.buffer.split(mark, 1)
        return part

    def take(self, count):
        while len(self.buffer) < count:
            self._more()
        part, self.buffer = self.buffer[:count], self.buffer[count:]
        return part

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ")
        assert version == "HTTP/1.1", lines[0]
        headers = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            headers[name.lower()] = value
        return int(status), headers

    def chunk(self):
        """A chunk of a chunked body; b"" at its end."""
        size = int(self.until(b"\r\n"), 16)
        data = self.take(size)
        assert self.take(2) == b"\r\n"
        return data

    def answer(self, head_only=False):
        status, headers = self.head()
        body = b""
        if head_only or status in (100, 204):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                data = self.chunk()
                if not data:
                    break
                body += data
        elif "content-length" in headers:
            body = self.take(int(headers["content-length"]))
        else:
            try:
                while True:
                    self._more()
            except EOFError:
                body, self.buffer = self.buffer, b""
        return Answer(status, headers, body)


def request_bytes(method, path, body=None, headers=None, version="1.1"):
    lines = [f"{method} {path} HTTP/{version}", "Host: test"]
    fields = dict(headers or {})
    if body is not None:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        fields.setdefault("Content-Type", "application/json")
        fields.setdefault("Content-Length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


class LiveTest(unittest.TestCase):
    """One server for all tests of the class."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.close()
        assert code == 0, f"the server ended with {code}: " + "".join(cls.server.log)

    def ask(self, method, path, body=None, headers=None):
        with self.server.connect() as connection:
            connection.sendall(request_bytes(method, path, body, headers))
            return Reader(connection).answer(head_only=method == "HEAD")

    def post(self, path, body, headers=None):
        return self.ask("POST", path, body, headers)

    def raw(self, data):
        """What a server answers to these bytes; None if it only closes."""
        with self.server.connect() as connection:
            try:
                connection.sendall(data)
                return Reader(connection).answer()
            except (EOFError, ConnectionError):
                return None

    def completion(self, **fields):
        body = {"prompt": "It was a dark and stormy", "max_tokens": 6, "temperature": 0}
        body.update(fields)
        return self.post("/v1/completions", body)

    def chat(self, **fields):
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6,
                "temperature": 0}
        body.update(fields)
        return self.post("/v1/chat/completions", body)

    def check_error(self, answer, status, param=None, code=None):
        self.assertEqual(answer.status, status, answer.body[:500])
        error = answer.json()["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])
        self.assertNotIn("\n", error["message"])
        if status < 500:
            self.assertEqual(error["type"], "invalid_request_error")
        if param is not None:
            self.assertEqual(error["param"], param)
        if code is not None:
            self.assertEqual(error["code"], code)
        return error

    def check_alive(self):
        """The next request is right."""
        answer = self.completion(max_tokens=2)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.json()["usage"]["completion_tokens"], 2)

    def metrics(self):
        values = {}
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.split("{")[0] if "le=" not in line else name] = float(value)
        return values


def main():
    unittest.main(verbosity=2 if "-v" in sys.argv else 1)
