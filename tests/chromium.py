"""A headless Chromium that opens a page, clicks and types: real events, over the DevTools protocol.

Used by tests/test_browse.py and benchmarks/browse.py. The browser is CHROMIUM, or the first of a few usual names."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEYS = {"Tab": 9, "Enter": 13, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35}


def find_browser():
    "Path of a browser, or None"
    return next(filter(None, map(shutil.which, filter(None, [os.environ.get("CHROMIUM"), *NAMES]))), None)


class Page:
    "An open page"

    def __init__(self, socket):
        self.socket, self.numbers, self.problems = socket, count(1), []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):  # what the browser answers
        number = next(self.numbers)
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        while True:
            said = json.loads(self.socket.recv(timeout=60))
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                self.problems.append(json.dumps(said["params"])[:500])
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def ask(self, expression):  # the value of a JavaScript expression
        asked = dict(expression=expression, returnByValue=True, awaitPromise=True)
        said = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, expression, seconds=60):  # until it is true
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def open(self, path, width=1300, height=900):
        "Open a file and wait until it has drawn"
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.documentElement && document.documentElement.dataset.drawn")

    def click(self, element):  # element: a JavaScript expression
        "Click the middle of an element"
        self.ask(f"({element}).scrollIntoView({{block: 'center'}})")
        box = f"(b => [b.x + b.width / 2, b.y + b.height / 2])(({element}).getBoundingClientRect())"
        self.click_at(*self.ask(box))

    def click_at(self, x, y):  # pixels of the window
        "Move the mouse to a place and click"
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name):
        "Press and release a key"
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=KEYS[name])

    def picture(self, path):
        "The whole page as a PNG"
        Path(path).write_bytes(b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browser(program):  # yields a `Page`
    "Start a browser with a fresh profile; it is ended again"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage --remote-debugging-port=0"
        command = [program, *flags.split(), f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
                target = next(t for t in json.load(answer) if t["type"] == "page")
            with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(30)


def _port(file, process, seconds=60):
    "The port that a browser has chosen"
    end = time.monotonic() + seconds
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None and time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    return file.read_text().split()[0]
