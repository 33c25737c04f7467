"""Pages as a browser has them: on a phone, a tablet and a desk, in light and dark, and on paper."""

import shutil
import subprocess

import browser
import pytest
from pages import KINDS, write_pages

WIDTHS, SCHEMES = (360, 800, 1400), ("light", "dark")
AXE = "axe-core@4.14.1"
LARGEST = 5_000_000  # bytes of a page

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """Source of the accessibility checker."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here, which fetches the accessibility checker")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, AXE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"the accessibility checker cannot be fetched: {done.stderr[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def require_sound(tab, page, width, scheme, picture):
    tab.open(page, width, scheme)
    assert not tab.complaints
    outside = [url for url in tab.requests if url != page.resolve().as_uri() and not url.startswith("data:")]
    assert not outside
    assert tab.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    tab.picture(picture)
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_s_page_is_sound_at_any_width_and_in_both_schemes(tab, written, width, scheme, tmp_path):
    require_sound(tab, written["run"], width, scheme, tmp_path / "page.png")
    paper = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}[scheme]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "run"])
def test_every_other_page_fits_a_phone(tab, written, kind, tmp_path):
    require_sound(tab, written[kind], WIDTHS[0], "dark", tmp_path / "page.png")


def test_a_page_prints(tab, written, tmp_path):
    tab.open(written["run"], WIDTHS[2], "dark")
    tab.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.ask("getComputedStyle(document.querySelector('.films')).display") == "none"
        assert shown(tab) == [0, 2]
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_a_debug_run_s_page_is_sound_and_small(tab, debug_run, tmp_path):
    page = debug_run.path / "report.html"
    assert page.stat().st_size < LARGEST
    require_sound(tab, page, WIDTHS[0], "light", tmp_path / "page.png")


def shown(tab):
    """How many of the pictures are to be seen, of moving ones and of still ones."""
    return [
        tab.ask(f"[...document.querySelectorAll('.{kind}')].filter(each => each.offsetHeight > 0).length")
        for kind in ("moving", "still")
    ]


@pytest.mark.parametrize("kind", ["run", "watch"])
def test_moving_pictures_can_be_stopped(tab, written, kind):
    tab.open(written[kind], WIDTHS[0], "light")
    assert shown(tab) == [2, 0]
    tab.ask("document.getElementById('still').click()")
    assert shown(tab) == [0, 2]
    tab.open(written[kind], WIDTHS[0], "light")
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert shown(tab) == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_rule_of_accessibility_is_broken(tab, written, axe, kind):
    for width in WIDTHS:
        for scheme in SCHEMES:
            tab.open(written[kind], width, scheme)
            tab.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
            tab.ask(f"{axe}; 0")
            found = tab.ask("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
            assert not found, (width, scheme)
