"""The chat page in a headless Chromium, through the DevTools protocol over a pipe: skipped (exit
code 77) where there is no Chromium."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from live_server import TIMEOUT, Server, main

SKIPPED = 77
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. Commands go to descriptor 3 of the browser and answers come from 4, each ended by a
    zero byte."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self.to_write = os.pipe()
        self.from_read, from_write = os.pipe()

        def arrange():
            # Above 4 first, so that neither overwrites the other.
            a, b = os.dup2(to_read, 20), os.dup2(from_write, 21)
            os.dup2(a, 3)
            os.dup2(b, 4)
        self.process = subprocess.Popen(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-extensions", "--remote-debugging-pipe",
             f"--user-data-dir={self.folder.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=arrange)
        os.close(to_read)
        os.close(from_write)
        self.buffer = b""
        self.next_id = 0
        self.session = None
        self.errors = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target,
                                 flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Log.enable")

    def call(self, method, **params):
        self.next_id += 1
        message = {"id": self.next_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                data = os.read(self.from_read, 1 << 16)
                if not data:
                    raise RuntimeError("the browser ended")
                self.buffer += data
            line, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(answer["params"])
            if answer.get("id") == self.next_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def run(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                           returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression):
        deadline = time.monotonic() + TIMEOUT
        while not self.run(expression):
            if time.monotonic() > deadline:
                raise AssertionError(f"never true: {expression}; page: " +
                                     self.run("document.body.innerText"))
            time.sleep(0.05)

    def key(self, key, code, text=""):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code,
                  text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def close(self):
        self.session = None
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to_write)
        os.close(self.from_read)
        self.folder.cleanup()


class PageTest(unittest.TestCase):
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.browser = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        assert cls.server.close() == 0

    def open(self, width=1000, height=800):
        self.browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                          deviceScaleFactor=1, mobile=width < 500)
        self.browser.call("Page.navigate", url=f"http://127.0.0.1:{self.server.port}/")
        self.browser.wait("document.getElementById('status') && "
                          "document.getElementById('status').textContent.startsWith('Ready')")

    def test_a_chat_by_keyboard_with_both_kinds_of_attention(self):
        page = self.browser
        self.open()
        self.assertEqual(page.run("document.activeElement.id"), "message")
        self.assertEqual(page.run("document.title"), "moba-books-19m – moba chat")
        for mode, shown in (("moba", "MoBA"), ("full", "full")):
            page.run(f"document.querySelector('input[value={mode}]').click(); "
                     "document.getElementById('max-tokens').value = 12; "
                     "document.getElementById('message').focus()")
            page.type("Hello <b>there</b>")
            page.key("Enter", 13, "\r")
            page.wait("document.getElementById('status').textContent === 'Done.'")
            self.assertEqual(page.run("document.getElementById('mode').textContent"), shown)
            self.assertRegex(page.run("document.getElementById('speed').textContent"), "tokens/s")
            self.assertRegex(page.run("document.getElementById('context').textContent"), " of ")
            self.assertRegex(page.run("document.getElementById('cached').textContent"),
                             r"^[\d,]+ tokens$")
            page.run("document.getElementById('status').textContent = ''")
        self.assertEqual(page.run("document.querySelectorAll('.turn').length"), 4)
        self.assertTrue(page.run("document.querySelector('.turn.assistant p').textContent.length > 0"))
        # What users write is text.
        self.assertEqual(page.run("document.querySelectorAll('.turn b').length"), 0)
        self.assertEqual(page.run("document.activeElement.id"), "message")
        records = [r for r in self.server.records() if r["path"] == "/v1/chat/completions"]
        self.assertEqual([r["output_tokens"] for r in records[:2]], [12, 12])
        self.assertEqual(page.errors, [])

    def test_stopping_with_the_escape_key(self):
        page = self.browser
        self.open()
        page.run("document.getElementById('max-tokens').value = 100000")
        page.type("Tell me a long story")
        page.key("Enter", 13, "\r")
        page.wait("document.querySelector('.turn.assistant p') && "
                  "document.querySelector('.turn.assistant p').textContent.length > 20")
        self.assertFalse(page.run("document.getElementById('stop').hidden"))
        page.key("Escape", 27)
        page.wait("document.getElementById('status').textContent === 'Stopped.'")
        self.assertTrue(page.run("document.getElementById('stop').hidden"))

    def test_every_control_has_a_name_and_is_reached_by_tab(self):
        page = self.browser
        self.open()
        page.run("document.querySelector('details').open = true; document.body.focus()")
        unnamed = page.run(
            "[...document.querySelectorAll('input,textarea,button')].filter(e => !("
            "(e.labels && e.labels.length) || e.textContent.trim())).length")
        self.assertEqual(unnamed, 0)
        seen = set()
        for _ in range(20):
            page.key("Tab", 9)
            seen.add(page.run("document.activeElement.id || document.activeElement.tagName"))
        self.assertTrue({"message", "new", "temperature", "SUMMARY", "log"} <= seen, seen)

    def test_a_phone(self):
        page = self.browser
        self.open(width=360, height=640)
        self.assertTrue(page.run("document.documentElement.scrollWidth <= 360"))
        box = page.run("(() => { const b = document.getElementById('send')"
                       ".getBoundingClientRect(); return [b.right, b.bottom, b.height]; })()")
        self.assertLessEqual(box[0], 360)
        self.assertLessEqual(box[1], 640)
        self.assertGreaterEqual(box[2], 44)
        picture = os.environ.get("MOBA_PAGE_PICTURE")
        if picture:
            with open(picture, "wb") as file:
                file.write(base64.b64decode(page.call("Page.captureScreenshot")["data"]))


if __name__ == "__main__":
    if BROWSER is None:
        print("skipped: there is no Chromium")
        sys.exit(SKIPPED)
    main()
