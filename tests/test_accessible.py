"""Pages that everybody can read: what can be told from their source alone. test_browser.py asks a browser."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from pages import KINDS, write_pages

VOID = {"meta", "input", "img", "br", "hr", "link"}
TEXT, GRAPHICS = 4.5, 3.0  # contrast ratios of WCAG 2.2, level AA


class Elements(HTMLParser):
    """Every element with its attributes, its ancestors' names, and the text within."""

    def __init__(self, source):
        super().__init__()
        self.found, self.open = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        each = {"tag": tag, "within": [one["tag"] for one in self.open], "text": "", **dict(attrs)}
        self.found.append(each)
        if tag not in VOID:
            self.open.append(each)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for each in self.open:
            each["text"] += data

    def of(self, *tags):
        return [each for each in self.found if each["tag"] in tags]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(params=KINDS)
def page(request, written):
    return Elements(written[request.param].read_text("utf-8"))


def test_page_says_its_language_and_title_and_closes_what_it_opens(page):
    assert page.of("html")[0]["lang"] == "en"
    assert page.of("title")[0]["text"].strip()
    assert "width=device-width" in page.of("meta")[1]["content"]
    assert len(page.of("main")) == 1 and not page.open


def test_headings_begin_with_one_h1_and_leave_out_no_level(page):
    levels = [int(each["tag"][1]) for each in page.of("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_what_refers_to_them_finds_them(page):
    ids = [each["id"] for each in page.found if "id" in each]
    assert len(ids) == len(set(ids))
    asked = [
        each[key] for each in page.found for key in ("aria-describedby", "aria-labelledby") if key in each
    ]
    asked += [each["href"][1:] for each in page.of("use") if "href" in each]
    assert set(asked) <= set(ids)


def test_pictures_say_what_they_show(page):
    assert all(each["alt"] for each in page.of("img"))
    for each in page.of("svg"):
        assert each["role"] == "img" and each["aria-label"]
    assert all(each["text"].strip() for each in page.of("figcaption"))


def test_controls_have_names(page):
    for each in page.of("button", "select", "input"):
        labelled = "label" in each["within"] or (each["tag"] == "button" and each["text"].strip())
        assert labelled or each.get("aria-label"), each


def test_tables_name_their_columns_and_rows(page):
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(each["scope"] in ("col", "row") and each["text"].strip() for each in page.of("th"))


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_white_and_black():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def palettes():
    """Colours by name: light, dark and on paper."""
    style = (files("pipelines.report") / "templates" / "style.css").read_text("utf-8")
    found = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    return dict(zip(("light", "dark", "print"), found, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_colours_stand_out_from_what_they_lie_on(scheme):
    colours = palettes()[scheme]
    for ground in ("paper", "panel"):
        for name in ("ink", "muted"):
            assert contrast(colours[name], colours[ground]) >= TEXT, (name, ground)
        for name in (name for name in colours if name.startswith("series")):
            assert contrast(colours[name], colours[ground]) >= GRAPHICS, (name, ground)
    assert len(set(colours)) == 9
