"""Pages that everybody can read: what their source tells, and what a browser makes of them on a phone, a
tablet and a desk, in light and dark, and on paper."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, add_truth, full_run, moving, recorded
from test_sweep import fill, made
from test_sweep_students import with_students

from pipelines.compare import compare_runs
from pipelines.report import write_comparison, write_report, write_sweep_report, write_watch_page

KINDS = ("run", "sweep", "comparison", "watch")
TEXT, GRAPHICS = 4.5, 3.0  # contrast ratios of WCAG 2.2, level AA
SCREENS = [*product((360, 800, 1400), ("light", "dark"))]
PHONE = SCREENS[:1]
AXE = "axe-core@4.14.1"
LARGEST = 5_000_000  # bytes of a page
LAID_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"
COLOURS = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}
# How many of the pictures are to be seen, of moving ones and of still ones.
ALL = "[...document.querySelectorAll('.' + kind)]"
SHOWN = f"['moving', 'still'].map(kind => {ALL}.filter(each => each.offsetHeight > 0).length)"
STOP = "document.getElementById('still').click()"

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=20000")
# Whatever a page asks the network for, or any script of its own, is a message on the console.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-eval'"
# Frames, because no window is as narrow as a phone.
FRAMES = """<!DOCTYPE html><title>nothing</title>
<script>
const answers = [];
onload = async () => {{
  for (const [width, scheme] of {screens}) {{
    const frame = document.createElement("iframe");
    frame.style = `width: ${{width}}px; height: 800px; border: 0; color-scheme: ${{scheme}}`;
    const loaded = new Promise(done => frame.onload = done);
    frame.srcdoc = {source};
    document.body.append(frame);
    await loaded;
    answers.push(await frame.contentWindow.eval({asked}));
    frame.remove();
  }}
  document.title = JSON.stringify(answers);
}};
</script>"""

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")


def ask(page: Path, asked: str, screens=PHONE, *flags: str) -> list[Any]:
    """Returns what JavaScript answers in the page on each screen, a width and a scheme, as JSON has it.

    A message on the console is an error."""
    policy = f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    source, script = (
        json.dumps(text).replace("</", "<\\/")
        for text in (page.read_text("utf-8").replace("<head>", policy, 1), asked)
    )
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.html"
        frames.write_text(FRAMES.format(screens=json.dumps(screens), source=source, asked=script), "utf-8")
        words = [
            str(PROGRAM),
            *FLAGS,
            f"--user-data-dir={folder}",
            *flags,
            "--enable-logging=stderr",
            "--dump-dom",
            frames.as_uri(),
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert ":CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    answer = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(html.unescape(answer[1]))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """One page of each kind that the program writes, of runs and a sweep that are made up."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {name: full_run(folder, name) for name in ("first", "second")}
    add_truth(runs["first"])
    sweep = fill(made(folder / "sweep", ["network.depth=4,8"], [0, 1]), lambda member: 0.5)
    for member in sweep.members:
        add_truth(member.run)
    with_students(sweep, lambda member: 0.4 + 0.1 * member.seed)
    watch = folder / "watch.html"
    write_watch_page(watch, "reacher", "the teacher", recorded(), [moving()] * 2)
    return {
        "run": write_report(runs["first"]),
        "sweep": write_sweep_report(sweep),
        "comparison": write_comparison(runs, compare_runs(runs), folder / "compare.html"),
        "watch": watch,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_page_holds_is_named(written, kind):
    page = Page(written[kind].read_text("utf-8"))  # which closes what it opens
    assert page.of("html")[0]["lang"] == "en" and page.of("title")[0]["text"].strip() and not page.open
    assert "width=device-width" in page.of("meta")[1]["content"] and len(page.of("main")) == 1
    levels = [int(each["tag"][1]) for each in page.of("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [each["id"] for each in page.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert {each["href"][1:] for each in page.of("use")} <= set(ids)
    assert all(each["alt"] for each in page.of("img"))
    assert all(each["role"] == "img" and each["aria-label"] for each in page.of("svg"))
    assert all(each["text"].strip() for each in page.of("figcaption"))
    assert all("label" in each["within"] for each in page.of("button", "select", "input"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(each["scope"] in ("col", "row") and each["text"].strip() for each in page.of("th"))


def contrast(one: str, other: str) -> float:
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_what_they_lie_on():
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    style = (files("pipelines.report") / "templates" / "style.css").read_text("utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style)
    for scheme in (0, 1):
        colours = {name: pair[scheme] for name, *pair in found}
        least = {name: GRAPHICS for name in colours if name.startswith("series")}
        least |= {"ink": TEXT, "muted": TEXT}
        assert len(least) > 2
        for name, ground in product(least, ("paper", "panel")):
            assert contrast(colours[name], colours[ground]) >= least[name], (name, ground, scheme)


@needs_browser
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_as_wide_as_the_screen_and_quiet_in_the_reader_s_colours(written, kind):
    assert written[kind].stat().st_size < LARGEST
    found = ask(written[kind], f"[{LAID_OUT}, {PAPER}]", SCREENS)
    assert found == [[0, COLOURS[scheme]] for _, scheme in SCREENS]


@needs_browser
def test_moving_pictures_can_be_stopped(written):
    assert ask(written["watch"], f"const before = {SHOWN}; {STOP}; [before, {SHOWN}]") == [[[2, 0], [0, 2]]]
    assert ask(written["watch"], SHOWN, PHONE, "--force-prefers-reduced-motion") == [[0, 2]]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_rule_of_accessibility_is_broken(written, kind, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here, which fetches the accessibility checker")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", tmp_path, AXE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"the accessibility checker cannot be fetched: {done.stderr[-200:]}")
    axe = (tmp_path / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
    opened = "document.querySelectorAll('details').forEach(each => each.open = true)"
    broken = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    assert ask(written[kind], f"{opened}; {axe}; {broken}", SCREENS) == [[]] * len(SCREENS)
