"""Headless Chromium, spoken to through two pipes: a page is opened, looked at and asked."""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)
ENDED = b"\0"  # after each message
HARMLESS = "GL Driver Message"  # what software rendering logs of its own speed


class Browser:
    """One tab. Everything that it logs or asks the network for is kept in `complaints` and `requests`."""

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers = commands, os.fdopen(answers, "rb", buffering=0)
        self.rest, self.number, self.loaded = b"", 0, False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Lays the page out for a screen of this width, `light` or `dark`, and waits until it is loaded."""
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.scheme(scheme)
        self.loaded, self.complaints, self.requests = False, [], []
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.loaded:
            self._receive()
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def scheme(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def ask(self, expression: str) -> Any:
        """What JavaScript answers, as JSON has it; a promise is waited for."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, file: Path) -> None:
        """The whole page, from its top to its end, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def printed(self, file: Path) -> None:
        """The page on paper, as PDF."""
        file.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))

    def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + ENDED)
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while ENDED not in self.rest:
            more = self.answers.read(1 << 20)
            assert more, "the browser ended"
            self.rest += more
        text, _, self.rest = self.rest.partition(ENDED)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        self.loaded |= event == "Page.loadEventFired"
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        said = None
        if event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            said = str(params["args"])
        if event == "Runtime.exceptionThrown":
            said = str(params["exceptionDetails"])
        if event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            said = params["entry"]["text"]
        if said and HARMLESS not in said:
            self.complaints.append(said)


@contextmanager
def browser(profile: Path, *flags: str):
    """A browser with an empty profile there, and a tab in it; it ends with the block."""
    assert PROGRAM is not None
    commands, answers = os.pipe(), os.pipe()

    def ends() -> None:  # in the new process: it reads commands from 3 and answers on 4
        reading, writing = os.dup(commands[0]), os.dup(answers[1])
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    command = [PROGRAM, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, preexec_fn=ends, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(commands[0])
    os.close(answers[1])
    try:
        yield Browser(commands[1], answers[0])
    finally:
        process.kill()
        process.wait()
        os.close(commands[1])
