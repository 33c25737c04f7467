"""Pages as a browser has them: on a phone, a tablet and a desk, in light and dark, and on paper."""

import shutil
import subprocess

import browser
import pytest
from pages import KINDS, write_pages

WIDTHS, SCHEMES = (360, 800, 1400), ("light", "dark")
AXE = "axe-core@4.14.1"
LARGEST = 5_000_000  # bytes of a page
LAID_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"
# How many of the pictures are to be seen, of moving ones and of still ones.
ALL = "[...document.querySelectorAll('.' + kind)]"
SHOWN = f"['moving', 'still'].map(kind => {ALL}.filter(each => each.offsetHeight > 0).length)"

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [("run", width, scheme) for width in WIDTHS for scheme in SCHEMES]
    + [(kind, WIDTHS[0], "dark") for kind in KINDS if kind != "run"],
)
def test_a_page_is_as_wide_as_the_screen_and_quiet_in_the_reader_s_colours(written, kind, width, scheme):
    wider, paper = browser.ask(written[kind], f"[{LAID_OUT}, {PAPER}]", width, scheme)
    assert wider == 0
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}[scheme]


def test_a_debug_run_s_page_is_sound_and_small(debug_run):
    page = debug_run.path / "report.html"
    assert page.stat().st_size < LARGEST
    assert browser.ask(page, LAID_OUT, WIDTHS[0]) == 0


@pytest.mark.parametrize("kind", ["run", "watch"])
def test_moving_pictures_can_be_stopped(written, kind):
    assert browser.ask(written[kind], SHOWN) == [2, 0]
    assert browser.ask(written[kind], f"document.getElementById('still').click(); {SHOWN}") == [0, 2]
    flag = "--force-prefers-reduced-motion"
    assert browser.ask(written[kind], SHOWN, WIDTHS[0], "light", flag) == [0, 2]


def test_a_page_prints(written, tmp_path):
    browser.run(tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}", written["run"].as_uri())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


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
    for width in WIDTHS:
        for scheme in SCHEMES:
            assert not browser.ask(written[kind], f"{opened}; {axe}; {broken}", width, scheme), (
                width,
                scheme,
            )
