"""What pages are made of, and how they become HTML: one template for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


class Cell(NamedTuple):
    """A figure of a table, with its interval or whatever else belongs to it in small print below."""

    value: str
    detail: str | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; a cell that is None holds no figure."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str | None]]
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    kind: str = "figure"


@dataclass(frozen=True)
class Film:
    """A recorded episode as a moving picture, and its last frame for who wants none or prints."""

    caption: str
    moving: str  # data URI
    still: str  # data URI
    kind: str = "film"


@dataclass(frozen=True)
class SideBySide:
    """Blocks that need half of the page's width."""

    blocks: Sequence["Figure | Film | Table"]
    kind: str = "beside"


@dataclass(frozen=True)
class Folded:
    """What few readers want to see, behind its title."""

    title: str
    blocks: Sequence["Block"]
    kind: str = "folded"


@dataclass(frozen=True)
class Text:
    """A paragraph: of the page's own text, a remark, or commands and settings as they stand."""

    text: str
    kind: str = "text"  # or "note", "code"
    lead: str = ""  # in bold before it


Block = Table | Figure | Film | SideBySide | Folded | Text


@dataclass(frozen=True)
class Page:
    heading: str
    about: str
    title: str
    verdict: str = ""
    opening: Sequence[Block] = ()
    open_items: Sequence[tuple[str, str]] = ()  # what is missing or to be kept in mind, and a command or ""
    sections: dict[str, list[Block]] = field(default_factory=dict)  # those without blocks are left out

    def html(self) -> str:
        """Returns a document that refers to nothing outside itself; all text in it is escaped."""
        return _template().render(page=self)


def cell(value: str | None, detail: str | None = None) -> Cell | None:
    """Returns a figure with its small print; None for one that was not computed."""
    return None if value is None else Cell(value, detail)


def beside(blocks: Sequence[Figure | Film | Table]) -> list[Block]:
    """Returns blocks side by side; nothing if there are none."""
    return [SideBySide(blocks)] if blocks else []


def note(text: str | None) -> list[Block]:
    return [Text(text, "note")] if text else []


@cache
def _template() -> Template:
    loader = PackageLoader("pipelines.report")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    style = (files("pipelines.report") / "templates" / "style.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)
    return environment.get_template("page.html.j2")
