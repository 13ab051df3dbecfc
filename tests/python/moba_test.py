"""tools/python/moba over the embedded model, with nothing but the standard library.

    MOBA_LIBRARY=libmoba.so PYTHONPATH=tools/python python3 tests/python/moba_test.py MODEL_DIR
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import moba

MODEL = sys.argv.pop(1)
PROMPT = "It was a dark and stormy night"


def make_engine(**settings):
    return moba.Engine(MODEL, **{"max_model_len": 2048, "dtype": "float32", **settings})


class EngineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.engine = make_engine()

    @classmethod
    def tearDownClass(cls):
        cls.engine.close()

    def test_generate_and_stream_agree(self):
        output = self.engine.generate(PROMPT, max_tokens=20, temperature=0, ignore_eos=True)
        self.assertEqual(len(output.token_ids), 20)
        self.assertEqual(output.finish_reason, "length")
        self.assertEqual(output.prompt_ids, self.engine.tokenize(PROMPT))
        self.assertEqual(output.metrics["num_output_tokens"], 20)
        tokens = list(self.engine.stream(PROMPT, max_tokens=20, temperature=0, ignore_eos=True))
        self.assertEqual([token.token_id for token in tokens], output.token_ids)
        self.assertEqual("".join(token.text for token in tokens), output.text)

    def test_prompts_of_ids_and_bytes(self):
        ids = self.engine.tokenize(PROMPT)
        self.assertEqual(
            self.engine.generate(ids, max_tokens=5).token_ids,
            self.engine.generate(PROMPT.encode(), max_tokens=5).token_ids,
        )

    def test_samples_and_logprobs(self):
        output = self.engine.generate(
            PROMPT, n=3, max_tokens=6, temperature=1.0, seed=3, logprobs=2, prompt_logprobs=0
        )
        self.assertEqual(len(output.samples), 3)
        self.assertGreater(len({tuple(sample.token_ids) for sample in output.samples}), 1)
        for sample in output.samples:
            self.assertEqual([item.token_id for item in sample.logprobs], sample.token_ids)
            self.assertEqual(len(sample.logprobs[0].top), 2)
            self.assertLessEqual(sample.logprobs[0].logprob, sample.logprobs[0].top[0][1])
        self.assertEqual(len(output.prompt_logprobs), len(output.prompt_ids) - 1)
        streamed = list(self.engine.stream(PROMPT, n=2, max_tokens=3, logprobs=1))
        self.assertEqual({token.sample for token in streamed}, {0, 1})
        self.assertEqual(streamed[0].logprob.token_id, streamed[0].token_id)

    def test_fields_of_requests(self):
        plain = self.engine.generate(PROMPT, max_tokens=3).token_ids
        banned = self.engine.generate(PROMPT, max_tokens=3, logit_bias={plain[0]: float("-inf")})
        self.assertNotEqual(banned.token_ids[0], plain[0])
        stopped = self.engine.generate(PROMPT, max_tokens=200, stop=["the", "and"])
        self.assertIn(stopped.stop_reason, ("the", "and"))
        self.assertEqual(stopped.finish_reason, "stop")
        full = self.engine.generate(PROMPT, max_tokens=3, attention="full", cache_salt="x")
        self.assertEqual(full.metrics["moba_blocks_attended"], 0)
        late = self.engine.generate(PROMPT, max_tokens=1000, ignore_eos=True, timeout_seconds=0.05)
        self.assertEqual((late.finish_reason, late.stop_reason), ("cancelled", "deadline"))

    def test_cancel(self):
        with self.engine.stream(PROMPT, max_tokens=1900, ignore_eos=True) as stream:
            first = next(stream)
            self.assertFalse(stream.done)
            self.assertIsNone(stream.wait(0.0))
            stream.cancel()
            rest = list(stream)
            output = stream.result()
        self.assertEqual(output.finish_reason, "cancelled")
        self.assertEqual(output.token_ids, [t.token_id for t in [first] + rest])
        self.assertTrue(stream.done)
        self.assertIsNone(stream.poll(1.0))
        # Leaving the block, and losing the stream, cancel too.
        with self.engine.stream(PROMPT, max_tokens=1900, ignore_eos=True) as stream:
            next(stream)
        self.assertEqual(stream.result().finish_reason, "cancelled")
        stream = self.engine.stream(PROMPT, max_tokens=1900, ignore_eos=True)
        next(stream)
        del stream
        self.engine.generate(PROMPT, max_tokens=1)
        self.assertEqual(self.engine.stats()["num_running"], 0)

    def test_many_threads(self):
        expected = self.engine.generate(PROMPT, max_tokens=10, temperature=0).token_ids
        got = []

        def work():
            for _ in range(3):
                got.append(self.engine.generate(PROMPT, max_tokens=10, temperature=0).token_ids)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(got, [expected] * 12)

    def test_stats_and_info(self):
        before = self.engine.stats()
        self.engine.generate(PROMPT, max_tokens=4, ignore_eos=True)
        after = self.engine.stats()
        self.assertEqual(after["num_finished"] - before["num_finished"], 1)
        self.assertEqual(after["num_output_tokens"] - before["num_output_tokens"], 4)
        self.assertEqual(after["num_pages_in_use"], 0)
        self.assertGreater(after["end_to_end"]["count"], before["end_to_end"]["count"])
        self.assertGreater(after["step_time"]["p99_seconds"], 0)
        info = self.engine.info
        self.assertEqual(info["architecture"], "LlamaForCausalLM")
        self.assertEqual(info["dtype"], "float32")
        self.assertEqual(info["layer_topk"], [8] * 8 + [0, 0])
        self.assertEqual(info["max_model_len"], 2048)

    def test_refusals_name_the_reason(self):
        with self.assertRaisesRegex(moba.MobaError, 'did you mean "max_tokens"'):
            self.engine.generate(PROMPT, max_token=3)
        with self.assertRaisesRegex(moba.MobaError, "temperature: expected a number"):
            self.engine.generate(PROMPT, temperature="hot")
        with self.assertRaisesRegex(moba.MobaError, "top_p"):
            self.engine.generate(PROMPT, top_p=7)
        with self.assertRaisesRegex(moba.MobaError, "the prompt is empty") as caught:
            self.engine.generate("")
        self.assertEqual(caught.exception.status, 1)
        with self.assertRaises(ValueError):
            self.engine.generate(PROMPT, temperature=float("nan"))


class OtherTest(unittest.TestCase):
    def test_tokenizer(self):
        tokenizer = moba.Tokenizer(MODEL)
        text = "Caf\u00e9 \U0001f327 and tea"
        ids = tokenizer.encode(text)
        self.assertEqual(ids[0], tokenizer.bos_id)
        self.assertEqual(tokenizer.decode(ids), text)
        self.assertEqual(tokenizer.decode_bytes(ids).decode(), text)
        self.assertEqual(tokenizer.encode("</s>", False, True), [tokenizer.eos_id])
        self.assertEqual(tokenizer.token_name(tokenizer.eos_id), "</s>")
        self.assertEqual(tokenizer.vocab_size, 8192)
        with self.assertRaisesRegex(moba.MobaError, "8192"):
            tokenizer.decode([8192])
        with self.assertRaisesRegex(moba.MobaError, "/no/such"):
            moba.Tokenizer("/no/such")

    def test_chat_template(self):
        tokenizer = moba.Tokenizer(MODEL)
        messages = [{"role": "user", "content": "Caf\u00e9 </s>"}]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chat.jinja"
            path.write_text(
                "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
                "{% if add_generation_prompt %}[{{ who }}]{% endif %}"
            )
            template = moba.ChatTemplate(tokenizer, file=path)
            text = template.render(messages, who="me")
            self.assertEqual(text, "<s>[user] Caf\u00e9 </s>[me]")
            ids = template.encode(messages, who="me")
            self.assertEqual(ids[0], tokenizer.bos_id)
            self.assertNotIn(tokenizer.eos_id, ids)
            closed = template.render(messages, add_generation_prompt=False)
            self.assertEqual(closed, "<s>[user] Caf\u00e9 </s>")
        with self.assertRaisesRegex(moba.MobaError, "no chat template"):
            moba.ChatTemplate(tokenizer, MODEL)
        with self.assertRaises(ValueError):
            moba.ChatTemplate(tokenizer)

    def test_ranks_in_two_processes(self):
        settings = {"tensor_parallel_size": 2, "num_processes": 2, "max_model_len": 256, "threads": 1}
        settings |= {"device": "cpu", "dtype": "float32"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings["master_port"] = probe.getsockname()[1]
        code = (
            "import json, moba, sys; s = json.loads(sys.argv[2]);"
            "moba.run_rank(sys.argv[1], process_rank=1, **s)"
        )
        command = [sys.executable, "-c", code, MODEL, json.dumps(settings)]
        with subprocess.Popen(command) as other:
            try:
                with moba.Engine(MODEL, **settings) as engine:
                    self.assertEqual(engine.info["tensor_parallel_size"], 2)
                    split = engine.generate(PROMPT, max_tokens=8, temperature=0)
                self.assertEqual(other.wait(60), 0)
            finally:
                other.kill()
        with moba.Engine(MODEL, max_model_len=256, device="cpu", dtype="float32") as engine:
            whole = engine.generate(PROMPT, max_tokens=8, temperature=0)
        self.assertEqual(split.token_ids, whole.token_ids)

    def test_configuration_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "engine.json"
            path.write_text(
                '{"max_model_len": 512, "max_num_seqs": 2, "sampling": {"max_tokens": 4}}'
            )
            with moba.Engine(MODEL, config=path, max_model_len=256) as engine:
                self.assertEqual(engine.info["max_model_len"], 256)
                self.assertEqual(len(engine.generate(PROMPT, ignore_eos=True).token_ids), 4)
        with self.assertRaisesRegex(moba.MobaError, "unknown key"):
            make_engine(max_model_length=3)
        with self.assertRaisesRegex(moba.MobaError, "/no/such") as caught:
            moba.Engine("/no/such")
        self.assertEqual(caught.exception.status, 2)

    def test_a_closed_engine(self):
        engine = make_engine()
        stream = engine.stream(PROMPT, max_tokens=1900, ignore_eos=True)
        next(stream)
        engine.close()
        engine.close()
        list(stream)
        self.assertEqual(stream.result().finish_reason, "cancelled")
        with self.assertRaisesRegex(ValueError, "closed"):
            engine.stats()
        with self.assertRaisesRegex(ValueError, "closed"):
            engine.generate(PROMPT)

    def test_inspection_log_and_version(self):
        info = moba.inspect_checkpoint(MODEL)
        self.assertEqual(info["num_parameters"], 18882432)
        moba.set_log_level("error")
        moba.set_log_level("warning")
        self.assertRegex(moba.version(), r"^\d+\.\d+\.\d+$")


if __name__ == "__main__":
    unittest.main(verbosity=1)
