"""The official OpenAI client against a live server: skipped (exit code 77) where it is not
installed and the Python registry cannot be reached."""

import importlib
import os
import subprocess
import sys
import tempfile
import unittest

from live_server import Server, main

SKIPPED = 77


def find_client(folder):
    """The client's module; installed into `folder` if this Python has none."""
    try:
        return importlib.import_module("openai")
    except ImportError:
        pass
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--retries", "1", "--timeout", "15", "--target", folder, "openai"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    sys.path.insert(0, folder)
    return importlib.import_module("openai")


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "sesame")
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1",
                                   api_key="sesame", timeout=120, max_retries=0)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.close() == 0

    def chat(self, **fields):
        return self.client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=8,
            temperature=0, **fields)

    def complete(self, **fields):
        return self.client.completions.create(
            model=self.model, prompt="It was a dark and stormy", max_tokens=8, temperature=0,
            **fields)

    def test_chat(self):
        answer = self.chat()
        self.assertEqual(answer.usage.completion_tokens, 8)
        self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens >= 0, True)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        text = ""
        usage = None
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
        self.assertEqual(text, answer.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, 8)

    def test_chat_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
        self.assertEqual(len(content), 8)
        self.assertEqual(len(content[0].top_logprobs), 2)

    def test_completion(self):
        answer = self.complete(n=1, seed=3)
        text = "".join(chunk.choices[0].text for chunk in self.complete(stream=True))
        self.assertEqual(text, answer.choices[0].text)

    def test_completion_logprobs_and_echo(self):
        answer = self.complete(logprobs=2, echo=True)
        lists = answer.choices[0].logprobs
        self.assertIsNone(lists.token_logprobs[0])
        self.assertEqual(len(lists.tokens), answer.usage.total_tokens)

    def test_extras_and_errors(self):
        answer = self.chat(extra_body={"top_k": 5, "attention": "full", "cache_salt": "x"})
        self.assertEqual(answer.usage.completion_tokens, 8)
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(extra_body={"top_k": "many"})
        self.assertEqual(raised.exception.param, "top_k")
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="none", prompt="a")
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="wrong").models.list()

    def test_cancelling_a_stream(self):
        stream = self.client.completions.create(model=self.model, prompt="a", max_tokens=100000,
                                                stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as target:
        openai = find_client(target)
        if openai is None:
            print("skipped: the openai package is neither installed nor to be had")
            sys.exit(SKIPPED)
        main()
