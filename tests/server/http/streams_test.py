"""Many streams at once: every one completes with the right tokens, and the server's memory stays
within 200 KB a stream. streams_test.py [NUM_STREAMS]"""

import json
import selectors
import socket
import sys
import time

from live_server import Reader, Server, request_bytes

MAX_BYTES_PER_STREAM = 200_000
NUM_TOKENS = 16
TIME_LIMIT = 800


def body_of(i, stream):
    return {"prompt": f"Chapter {i % 50}. It was", "max_tokens": NUM_TOKENS, "temperature": 0,
            "ignore_eos": True, "stream": stream}


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def expected_texts(server):
    texts = []
    with server.connect() as connection:
        reader = Reader(connection)
        for i in range(50):
            connection.sendall(request_bytes("POST", "/v1/completions", body_of(i, False)))
            texts.append(reader.answer().json()["choices"][0]["text"])
    return texts


def text_of(data):
    """Of a whole answer; None if it is not complete."""
    if not data.endswith(b"0\r\n\r\n") or b"data: [DONE]" not in data:
        return None
    text = ""
    for line in data.decode().split("\n"):
        if line.startswith("data: {"):
            text += json.loads(line[6:])["choices"][0]["text"]
    return text


def run(num_streams):
    # As many seats as the machine computes at once anyway; the others wait in the queue.
    server = Server("--max-num-queued", str(num_streams), "--max-num-seqs", "64")
    expected = expected_texts(server)
    before = resident(server.process.pid)
    peak = before
    selector = selectors.DefaultSelector()
    data = [b""] * num_streams
    start = time.monotonic()
    for i in range(num_streams):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(request_bytes("POST", "/v1/completions", body_of(i, True),
                                         {"Connection": "close"}))
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, i)
    opened = time.monotonic() - start
    left = num_streams
    next_look = 0.0
    while left > 0:
        if time.monotonic() - start > TIME_LIMIT:
            raise SystemExit(f"{left} streams have not ended after {TIME_LIMIT} s")
        for key, _ in selector.select(timeout=1):
            piece = key.fileobj.recv(65536)
            data[key.data] += piece
            if not piece:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                left -= 1
        if time.monotonic() > next_look:
            peak = max(peak, resident(server.process.pid))
            next_look = time.monotonic() + 0.1
    seconds = time.monotonic() - start
    wrong = sum(text_of(data[i]) != expected[i % 50] for i in range(num_streams))
    per_stream = (peak - before) / num_streams
    code = server.close()
    print(f"{num_streams} streams of {NUM_TOKENS} tokens: opened in {opened:.2f} s, all ended after "
          f"{seconds:.1f} s, {num_streams * NUM_TOKENS / seconds:.0f} tokens/s, {wrong} wrong, "
          f"{per_stream / 1000:.1f} KB of memory a stream (cache pages that were touched included), "
          f"exit code {code}")
    return 0 if wrong == 0 and per_stream <= MAX_BYTES_PER_STREAM and code == 0 else 1


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
