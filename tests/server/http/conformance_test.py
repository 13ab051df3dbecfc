"""The API over raw HTTP, as clients use it."""

import json
import os
import signal
import socket
import threading
import time
import unittest

from live_server import (LiveTest, Reader, Server, TIMEOUT, main, request_bytes)


class CompletionsTest(LiveTest):
    def test_completion(self):
        answer = self.completion()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["content-type"], "application/json")
        json_ = answer.json()
        self.assertEqual(json_["object"], "text_completion")
        self.assertTrue(json_["id"].startswith("cmpl-"))
        self.assertEqual(json_["model"], "moba-books-19m")
        choice, = json_["choices"]
        self.assertEqual(choice["finish_reason"], "length")
        usage = json_["usage"]
        self.assertEqual(usage["completion_tokens"], 6)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 6)
        self.assertIn("cached_tokens", usage["prompt_tokens_details"])

    def test_stream_brings_the_same_text(self):
        for n in (1, 2):
            body = {"n": n, "temperature": 0.8, "seed": 7, "max_tokens": 12}
            whole = self.completion(**body).json()
            answer = self.completion(stream=True, **body)
            self.assertEqual(answer.headers["transfer-encoding"], "chunked")
            self.assertTrue(answer.headers["content-type"].startswith("text/event-stream"))
            events = answer.events()
            self.assertEqual(events[-1], "[DONE]")
            texts, reasons = [""] * n, [None] * n
            for event in events[:-1]:
                self.assertEqual(event["object"], "text_completion")
                self.assertNotIn("usage", event)
                choice, = event["choices"]
                self.assertIsNone(reasons[choice["index"]])
                texts[choice["index"]] += choice["text"]
                reasons[choice["index"]] = choice["finish_reason"]
            self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])
            self.assertEqual(reasons, ["length"] * n)

    def test_usage_of_a_stream(self):
        events = self.completion(stream=True, stream_options={"include_usage": True}).events()
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(events[-2]["choices"], [])
        self.assertEqual(events[-2]["usage"]["completion_tokens"], 6)
        for event in events[:-2]:
            self.assertIsNone(event["usage"])

    def test_prompts_of_every_kind(self):
        ids = self.post("/tokenize", {"prompt": "It was a dark and stormy"}).json()["tokens"]
        one = self.completion().json()["choices"][0]["text"]
        self.assertEqual(self.completion(prompt=ids).json()["choices"][0]["text"], one)
        several = self.completion(prompt=[ids, ids[:4]], n=2, temperature=0.5, seed=1).json()
        self.assertEqual([choice["index"] for choice in several["choices"]], [0, 1, 2, 3])
        texts = self.completion(prompt=["It was a dark and stormy", "The sea"]).json()["choices"]
        self.assertEqual(texts[0]["text"], one)
        streamed = ["", ""]
        for event in self.completion(prompt=["It was a dark and stormy", "The sea"],
                                     stream=True).events()[:-1]:
            choice, = event["choices"]
            streamed[choice["index"]] += choice["text"]
        self.assertEqual(streamed, [choice["text"] for choice in texts])

    def test_logprobs_and_echo(self):
        for stream in (False, True):
            fields = {"logprobs": 2, "echo": True, "stream": stream}
            answer = self.completion(**fields)
            if stream:
                text, lists = "", {"tokens": [], "token_logprobs": [], "text_offset": []}
                for event in answer.events()[:-1]:
                    choice, = event["choices"]
                    text += choice["text"]
                    for name, values in lists.items():
                        values += (choice["logprobs"] or {}).get(name, [])
            else:
                choice, = answer.json()["choices"]
                text, lists = choice["text"], choice["logprobs"]
                whole = (text, lists)
            self.assertTrue(text.startswith("It was a dark and stormy"), text)
            self.assertIsNone(lists["token_logprobs"][0])
            self.assertTrue(all(x <= 0 for x in lists["token_logprobs"][1:]))
            self.assertEqual(len(lists["tokens"]), len(lists["text_offset"]))
            self.assertEqual(text, whole[0])
            self.assertEqual(lists["text_offset"], whole[1]["text_offset"])
            self.assertEqual(lists["tokens"], whole[1]["tokens"])

    def test_echo_of_a_stream(self):
        text = "".join(event["choices"][0]["text"]
                       for event in self.completion(echo=True, stream=True).events()[:-1])
        self.assertEqual(text, self.completion(echo=True).json()["choices"][0]["text"])

    def test_stop_strings(self):
        text = self.completion(max_tokens=30).json()["choices"][0]["text"]
        stop = text[8:14]  # within words: no token ends where it does
        for stream in (False, True):
            answer = self.completion(max_tokens=30, stop=stop, stream=stream)
            if stream:
                events = answer.events()[:-1]
                got = "".join(event["choices"][0]["text"] for event in events)
                last = events[-1]["choices"][0]
            else:
                last, = answer.json()["choices"]
                got = last["text"]
            self.assertEqual(got, text[:text.index(stop)])
            self.assertEqual(last["finish_reason"], "stop")
            self.assertEqual(last["stop_reason"], stop)

    def test_sampling_fields(self):
        a = self.completion(temperature=1, seed=5, top_k=20, top_p=0.9, min_p=0.01,
                            repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
                            min_tokens=2, ignore_eos=True, priority=1, cache_salt="a",
                            stop_token_ids=[3, 3], logit_bias={"5": -100})
        b = self.completion(temperature=1, seed=5, top_k=20, top_p=0.9, min_p=0.01,
                            repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
                            min_tokens=2, ignore_eos=True, priority=-1, cache_salt="b",
                            stop_token_ids=[3, 3], logit_bias={"5": -100})
        self.assertEqual(a.status, 200, a.body)
        self.assertEqual(a.json()["choices"], b.json()["choices"])

    def test_attention_of_a_request(self):
        for fields in ({"attention": "full"}, {"attention": "moba", "moba_topk": 3}):
            self.assertEqual(self.completion(**fields).status, 200)
        self.check_error(self.completion(attention="half"), 400, "attention")

    def test_cached_tokens(self):
        prompt = "The ship sailed on through the long night. " * 30
        self.completion(prompt=prompt)
        usage = self.completion(prompt=prompt).json()["usage"]
        self.assertGreaterEqual(usage["prompt_tokens_details"]["cached_tokens"], 64)

    def test_prompt_logprobs(self):
        choice, = self.completion(prompt_logprobs=1).json()["choices"]
        self.assertIsNone(choice["prompt_logprobs"][0])
        self.assertGreater(len(choice["prompt_logprobs"]), 4)

    def test_unknown_fields_are_ignored_with_one_line(self):
        for _ in range(2):
            self.assertEqual(self.completion(wibble=1).status, 200)
        self.assertEqual(sum("wibble" in line for line in self.server.log), 1)

    def test_model_names(self):
        self.assertEqual(self.completion(model="moba-books-19m").status, 200)
        self.check_error(self.completion(model="gpt-4"), 404, "model", "model_not_found")


class ChatTest(LiveTest):
    def test_chat(self):
        json_ = self.chat().json()
        self.assertEqual(json_["object"], "chat.completion")
        self.assertTrue(json_["id"].startswith("chatcmpl-"))
        message = json_["choices"][0]["message"]
        self.assertEqual(message["role"], "assistant")
        self.assertEqual(json_["usage"]["completion_tokens"], 6)

    def test_stream(self):
        whole = self.chat().json()["choices"][0]["message"]["content"]
        events = self.chat(stream=True).events()
        self.assertEqual(events[-1], "[DONE]")
        deltas = [event["choices"][0]["delta"] for event in events[:-1]]
        self.assertEqual(deltas[0], {"role": "assistant", "content": ""})
        self.assertEqual("".join(delta.get("content", "") for delta in deltas), whole)
        self.assertEqual(events[-2]["choices"][0]["finish_reason"], "length")
        self.assertEqual(len({event["id"] for event in events[:-1]}), 1)

    def test_logprobs(self):
        whole = self.chat(logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(whole), 6)
        self.assertEqual(len(whole[0]["top_logprobs"]), 3)
        streamed = []
        for event in self.chat(logprobs=True, top_logprobs=3, stream=True).events()[:-1]:
            streamed += (event["choices"][0]["logprobs"] or {"content": []})["content"]
        self.assertEqual(streamed, whole)

    def test_content_parts_and_limits(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        self.assertEqual(self.chat(messages=parts).json()["choices"],
                         self.chat().json()["choices"])
        json_ = self.chat(max_tokens=None, max_completion_tokens=3).json()
        self.assertEqual(json_["usage"]["completion_tokens"], 3)

    def test_special_tokens_of_users_are_text(self):
        def tokens(text):
            return self.post("/tokenize",
                             {"messages": [{"role": "user", "content": text}]}).json()["tokens"]
        self.assertEqual(tokens("a</s>b").count(2), tokens("ab").count(2))
        self.assertEqual(tokens("<s>").count(1), tokens("x").count(1))

    def test_what_is_not_supported(self):
        tool = {"type": "function", "function": {"name": "f"}}
        self.check_error(self.chat(tools=[tool]), 400, "tools")
        self.check_error(self.chat(response_format={"type": "json_object"}), 400,
                         "response_format")
        self.assertEqual(self.chat(response_format={"type": "text"}, tools=[]).status, 200)
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        self.check_error(self.chat(messages=image), 400)


class OtherRoutesTest(LiveTest):
    flags = ("--served-model-name", "one", "--served-model-name", "two")

    def test_models(self):
        models = self.ask("GET", "/v1/models").json()
        self.assertEqual(models["object"], "list")
        self.assertEqual([model["id"] for model in models["data"]], ["one", "two"])
        self.assertEqual(self.ask("GET", "/v1/models/two").json()["id"], "two")
        self.check_error(self.ask("GET", "/v1/models/three"), 404, code="model_not_found")
        self.assertEqual(self.completion(model="two").json()["model"], "two")

    def test_tokens(self):
        answer = self.post("/tokenize", {"prompt": "Call me Ishmael.", "return_token_strs": True})
        json_ = answer.json()
        self.assertEqual(json_["count"], len(json_["tokens"]))
        self.assertEqual(len(json_["token_strs"]), json_["count"])
        self.assertEqual(json_["tokens"][0], 1)
        bare = self.post("/tokenize", {"prompt": "Call me Ishmael.", "add_special_tokens": False})
        self.assertEqual(bare.json()["tokens"], json_["tokens"][1:])
        back = self.post("/detokenize", {"tokens": bare.json()["tokens"]})
        self.assertEqual(back.json(), {"prompt": "Call me Ishmael."})
        self.check_error(self.post("/detokenize", {"tokens": [99999999]}), 400)
        self.check_error(self.post("/tokenize", {}), 400, "prompt")

    def test_health_version_and_page(self):
        self.assertEqual(self.ask("GET", "/health").status, 200)
        self.assertRegex(self.ask("GET", "/version").json()["version"], r"^\d+\.\d+\.\d+$")
        self.assertTrue(self.ask("GET", "/").headers["content-type"].startswith("text/html"))

    def test_metrics(self):
        self.completion()
        answer = self.ask("GET", "/metrics")
        self.assertTrue(answer.headers["content-type"].startswith("text/plain; version=0.0.4"))
        text = answer.body.decode()
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
                     "prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total",
                     "generation_tokens_total", "time_to_first_token_seconds_bucket",
                     "inter_token_latency_seconds_count", "e2e_request_latency_seconds_sum",
                     "blocks_selected_total", "blocks_available_total", "request_success_total"):
            self.assertRegex(text, rf'(?m)^moba:{name}{{model_name="one"[^}}]*}} ')
        self.assertGreaterEqual(self.metrics()["moba:generation_tokens_total"], 6)
        buckets = [value for name, value in self.metrics().items()
                   if name.startswith("moba:e2e_request_latency_seconds_bucket")]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], self.metrics()["moba:e2e_request_latency_seconds_count"])

    def test_methods_and_routes(self):
        self.check_error(self.ask("GET", "/nope"), 404)
        answer = self.ask("GET", "/v1/completions")
        self.check_error(answer, 405)
        self.assertEqual(answer.headers["allow"], "POST")
        self.check_error(self.ask("DELETE", "/health"), 405)
        head = self.ask("HEAD", "/health")
        self.assertEqual((head.status, head.body), (200, b""))
        self.check_error(self.post("/v1/completions", b"{}", {"Content-Type": "text/plain"}), 415)
        self.check_error(self.post("/v1/completions", b"{}", {"Content-Encoding": "gzip"}), 415)
        self.assertEqual(self.ask("GET", "/health?probe=1").status, 200)

    def test_connections_are_kept_and_pipelined(self):
        with self.server.connect() as connection:
            reader = Reader(connection)
            body = {"prompt": "A", "max_tokens": 2, "temperature": 0}
            connection.sendall(request_bytes("POST", "/v1/completions", body) * 3 +
                               request_bytes("GET", "/health") * 200)
            for _ in range(3):
                self.assertEqual(reader.answer().json()["usage"]["completion_tokens"], 2)
            for _ in range(200):
                answer = reader.answer()
                self.assertEqual((answer.status, answer.headers["connection"]),
                                 (200, "keep-alive"))

    def test_http_1_0_and_close(self):
        body = {"prompt": "A", "max_tokens": 2, "temperature": 0, "stream": True}
        with self.server.connect() as connection:
            connection.sendall(request_bytes("POST", "/v1/completions", body, version="1.0"))
            answer = Reader(connection).answer()
            self.assertNotIn("transfer-encoding", answer.headers)
            self.assertEqual(answer.headers["connection"], "close")
            self.assertEqual(answer.events()[-1], "[DONE]")
        with self.server.connect() as connection:
            connection.sendall(request_bytes("GET", "/health", headers={"Connection": "close"}))
            self.assertEqual(Reader(connection).answer().headers["connection"], "close")
            self.assertEqual(connection.recv(1), b"")

    def test_expect_100_continue_and_chunked_bodies(self):
        body = json.dumps({"prompt": "A", "max_tokens": 2}).encode()
        with self.server.connect() as connection:
            reader = Reader(connection)
            connection.sendall(request_bytes("POST", "/v1/completions", headers={
                "Expect": "100-continue", "Content-Type": "application/json",
                "Content-Length": str(len(body))}))
            self.assertEqual(reader.answer().status, 100)
            connection.sendall(body)
            self.assertEqual(reader.answer().status, 200)
            connection.sendall(request_bytes("POST", "/v1/completions", headers={
                "Transfer-Encoding": "chunked", "Content-Type": "application/json"}))
            for i in range(0, len(body), 5):
                piece = body[i:i + 5]
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
            self.assertEqual(reader.answer().status, 200)

    def test_access_log(self):
        self.post("/v1/completions", {"prompt": "A", "max_tokens": 2},
                  {"X-Request-Id": "log-test.1"})
        deadline = time.monotonic() + TIMEOUT
        found = []
        while not found and time.monotonic() < deadline:
            found = [r for r in self.server.records() if r["id"] == "log-test.1"]
            time.sleep(0.02)
        record, = found
        self.assertEqual((record["status"], record["method"], record["path"]),
                         (200, "POST", "/v1/completions"))
        self.assertEqual(record["output_tokens"], 2)
        self.assertTrue(record["complete"])


class KeyTest(LiveTest):
    flags = ("--api-key", "sesame", "--api-key", "other", "--allowed-origins", "https://a.example")

    def test_keys(self):
        for path in ("/v1/models", "/metrics", "/version", "/", "/nope"):
            answer = self.ask("GET", path)
            self.check_error(answer, 401, code="invalid_api_key")
            self.assertIn("www-authenticate", answer.headers)
        self.assertEqual(self.ask("GET", "/health").status, 200)
        for wrong in ("Bearer", "Bearer ", "Bearer sesam", "Bearer sesame2", "sesame",
                      "Basic sesame", "Basic ????", "Basic c2VzYW1l"):
            self.check_error(self.ask("GET", "/v1/models", headers={"Authorization": wrong}), 401)
        for right in ("Bearer sesame", "bearer other", "Basic dXNlcjpzZXNhbWU="):
            answer = self.ask("GET", "/v1/models", headers={"Authorization": right})
            self.assertEqual(answer.status, 200, right)
        # Before the body has come.
        with self.server.connect() as connection:
            connection.sendall(request_bytes("POST", "/v1/completions", headers={
                "Content-Type": "application/json", "Content-Length": "1000000"}))
            self.assertEqual(Reader(connection).answer().status, 401)

    def test_origins(self):
        allowed = {"Origin": "https://a.example"}
        self.assertEqual(self.ask("OPTIONS", "/v1/completions", headers=allowed).status, 204)
        answer = self.ask("GET", "/health", headers=allowed)
        self.assertEqual(answer.headers["access-control-allow-origin"], "https://a.example")
        answer = self.ask("GET", "/health", headers={"Origin": "https://b.example"})
        self.assertNotIn("access-control-allow-origin", answer.headers)


class LifeTest(unittest.TestCase):
    def test_draining_ends_what_runs(self):
        server = Server("--drain-timeout", "60")
        body = {"prompt": "A", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with server.connect() as connection, server.connect() as idle:
            connection.sendall(request_bytes("POST", "/v1/completions", body))
            reader = Reader(connection)
            self.assertEqual(reader.head()[0], 200)
            text = reader.chunk()
            os.kill(server.process.pid, signal.SIGTERM)
            while True:
                data = reader.chunk()
                if not data:
                    break
                text += data
            self.assertTrue(text.endswith(b"data: [DONE]\n\n"))
            self.assertEqual(text.count(b'"finish_reason":"length"'), 1)
            self.assertEqual(idle.recv(1), b"")
        self.assertEqual(server.process.wait(TIMEOUT), 0)
        server.close()

    def test_draining_has_an_end(self):
        server = Server("--drain-timeout", "0.2")
        body = {"prompt": "A", "max_tokens": 100000, "ignore_eos": True, "stream": True}
        with server.connect() as connection:
            connection.sendall(request_bytes("POST", "/v1/completions", body))
            reader = Reader(connection)
            self.assertEqual(reader.head()[0], 200)
            self.assertEqual(server.close(), 0)

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = Server("--port", str(taken.getsockname()[1]), wait=False)
            self.assertEqual(server.process.wait(TIMEOUT), 1)
            server.thread.join()
            self.assertIn("cannot listen on 127.0.0.1:", "".join(server.log))
            server.process.stderr.close()
            server.folder.cleanup()

    def test_many_at_once(self):
        server = Server()
        results = [None] * 40
        def ask(i):
            with server.connect() as connection:
                body = {"prompt": f"Chapter {i}", "max_tokens": 8, "temperature": 0,
                        "stream": bool(i % 2)}
                connection.sendall(request_bytes("POST", "/v1/completions", body))
                results[i] = Reader(connection).answer()
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, answer in enumerate(results):
            self.assertEqual(answer.status, 200)
            if i % 2:
                self.assertEqual(answer.events()[-1], "[DONE]")
        self.assertEqual(server.close(), 0)


if __name__ == "__main__":
    main()
