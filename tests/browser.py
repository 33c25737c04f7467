"""A page in headless Chromium: what JavaScript finds in it at a width, in light or dark."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=20000")
# Whatever a page asks the network for, or any script of its own, is a message on the console.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-eval'"
# A frame, because no window is as narrow as a phone.
FRAME = """<!DOCTYPE html><title>nothing</title>
<iframe width="{width}" height="800" style="border: 0; color-scheme: {scheme}"></iframe>
<script>
const frame = document.querySelector("iframe"), source = {source};
frame.onload = async () => document.title = JSON.stringify(await frame.contentWindow.eval({asked}));
frame.srcdoc = source;
</script>"""


def ask(page: Path, asked: str, width: int = 800, scheme: str = "light", *flags: str) -> Any:
    """Returns what JavaScript answers in the page, as JSON has it; a message on the console is an error."""
    policy = f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    source, script = (
        json.dumps(text).replace("</", "<\\/")
        for text in (page.read_text("utf-8").replace("<head>", policy, 1), asked)
    )
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(width=width, scheme=scheme, source=source, asked=script), "utf-8")
        done = run(Path(folder), *flags, "--enable-logging=stderr", "--dump-dom", frame.as_uri())
    assert ":CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    answer = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(html.unescape(answer[1]))


def run(profile: Path, *words: str) -> subprocess.CompletedProcess:
    command = [str(PROGRAM), *FLAGS, f"--user-data-dir={profile}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
