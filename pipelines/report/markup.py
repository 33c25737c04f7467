"""HTML elements. Text is escaped on its way in, so that nothing of a run is ever read as markup."""

import html
from collections.abc import Sequence


class Html(str):
    """Markup: text that is escaped already."""


def escaped(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def joined(*parts: object) -> Html:
    """Parts in a row; None is left out."""
    return Html("".join(escaped(part) for part in parts if part is not None))


def element(name: str, *children: object, **attributes: object) -> Html:
    """`element("a", "x < y", class_="b")`; children and attributes that are None are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{joined(*children)}</{name}>")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose first column names the row. A cell that is None holds no figure.

    Each cell carries its column's name: on narrow screens a row becomes a list of named figures,
    unless there are only two columns."""
    names = [element("th", name, scope="col") for name in head]
    body = [element("tr", element("th", row[0], scope="row"), *_cells(head, row)) for row in rows]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *names)),
        element("tbody", *body),
        class_="wide" if len(head) > 2 else None,
    )


def _cells(head: Sequence[str], row: Sequence[object]) -> list[Html]:
    return [_cell(name, value) for name, value in zip(head[1:], row[1:], strict=True)]


def _cell(name: str, value: object) -> Html:
    if value is None:
        return element("td", "\N{EN DASH}", class_="absent")
    return element("td", element("span", value), data_label=name)


def details(title: str, *children: object) -> Html:
    return element("details", element("summary", title), *children)
