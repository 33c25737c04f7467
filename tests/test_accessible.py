"""Pages that everybody can read: what can be told from their source alone. test_browser.py asks a browser."""

import re
from importlib.resources import files
from itertools import pairwise

import pytest
from pages import KINDS, write_pages
from test_report import Page

TEXT, GRAPHICS = 4.5, 3.0  # contrast ratios of WCAG 2.2, level AA


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


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


def contrast(one, other):
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_what_they_lie_on(scheme):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    style = (files("pipelines.report") / "templates" / "style.css").read_text("utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style)
    colours = {name: light if scheme == "light" else dark for name, light, dark in found}
    assert len(colours) == 9
    for ground in ("paper", "panel"):
        for name in ("ink", "muted"):
            assert contrast(colours[name], colours[ground]) >= TEXT, (name, ground)
        for name in (name for name in colours if name.startswith("series")):
            assert contrast(colours[name], colours[ground]) >= GRAPHICS, (name, ground)
