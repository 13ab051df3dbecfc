"""A server at saturation with random cancels and disconnects: no growth of memory, pages or
descriptors. soak.py [SECONDS] [NUM_CLIENTS]; 3600 and 48 unless told."""

import random
import sys
import threading
import time

from live_server import Reader, Server, request_bytes

MAX_GROWTH_BYTES = 32 << 20  # of memory, from after the first tenth of the time to the end
REPORT_SECONDS = 60


def metrics_of(server):
    with server.connect() as connection:
        connection.sendall(request_bytes("GET", "/metrics", headers={"Connection": "close"}))
        text = Reader(connection).answer().body.decode()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#") and "_bucket" not in line:
            name, value = line.rsplit(" ", 1)
            values[name.split("{")[0]] = float(value)
    return values


def one_request(server, pick):
    """A request that is read to its end, or left at some moment."""
    body = {"prompt": [16 + pick.randrange(900) for _ in range(pick.choice((1, 20, 300, 1500)))],
            "max_tokens": pick.choice((1, 8, 40)), "stream": pick.random() < 0.7,
            "n": pick.choice((1, 1, 1, 3)), "seed": pick.randrange(1000)}
    data = request_bytes("POST", "/v1/completions", body)
    stage = pick.choice(("whole", "whole", "whole", "cut", "sent", "head", "later", "bad"))
    with server.connect() as connection:
        if stage == "bad":
            data = bytes(pick.randrange(256) for _ in range(200))
        if stage == "cut":
            connection.sendall(data[:pick.randrange(len(data))])
            return
        connection.sendall(data)
        reader = Reader(connection)
        if stage == "sent":
            return
        if stage == "later":
            time.sleep(pick.random() * 0.5)
            return
        if stage == "head":
            reader.head()
            return
        answer = reader.answer()
        if stage == "whole" and answer.status != 200:
            raise AssertionError(f"status {answer.status}: {answer.body[:300]}")


def client(server, seed, end, failures):
    pick = random.Random(seed)
    while time.monotonic() < end and not failures:
        try:
            one_request(server, pick)
        except (EOFError, ConnectionError):
            pass
        except Exception as error:  # pylint: disable=broad-except
            failures.append(repr(error))


def settled(server):
    """Metrics once nothing runs."""
    for _ in range(600):
        values = metrics_of(server)
        if values["moba:num_requests_running"] + values["moba:num_requests_waiting"] == 0:
            time.sleep(1)
            return metrics_of(server)
        time.sleep(0.1)
    raise AssertionError("requests are left")


def run(seconds, num_clients):
    server = Server("--header-timeout", "2", "--body-timeout", "2", "--max-num-queued", "256",
                    # Small: pages that are touched for the first time are no growth to look for.
                    "--kv-cache-memory", "32M", "--max-model-len", "4096")
    start = time.monotonic()
    failures = []
    looks = []
    # A tenth to warm up, then a look, then the rest.
    for part, share in (("warm", 0.1), ("soak", 0.9)):
        end = time.monotonic() + seconds * share
        threads = [threading.Thread(target=client, args=(server, f"{part}{i}", end, failures))
                   for i in range(num_clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(REPORT_SECONDS / num_clients)
            values = metrics_of(server)
            print(f"{time.monotonic() - start:.0f} s: {values['process_resident_memory_bytes'] / 1e6:.1f}"
                  f" MB, {values['process_open_fds']:.0f} descriptors, "
                  f"{values['moba:generation_tokens_total']:.0f} tokens, "
                  f"{values['moba:requests_cancelled_total']:.0f} cancelled", flush=True)
        looks.append(settled(server))
    before, after = looks
    growth = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    descriptors = after["process_open_fds"] - before["process_open_fds"]
    pages = after["moba:kv_cache_usage_perc"]
    code = server.close()
    print(f"growth: {growth / 1e6:.1f} MB, {descriptors:.0f} descriptors; {pages:.3f} of the cache held; "
          f"exit code {code}; failures: {failures or 'none'}")
    good = growth <= MAX_GROWTH_BYTES and descriptors <= 4 and pages == 0
    return 0 if good and code == 0 and not failures else 1


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0,
                 int(sys.argv[2]) if len(sys.argv) > 2 else 48))
