"""Recorded episodes to look at from all sides: markup and data for viewer.js."""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files

from pipelines.report.findings import JSON
from pipelines.report.markup import Html, element, joined
from pipelines.report.wording import centimetres

SCRIPTS = ("shapes.js", "painter.js", "viewer.js")
NEAR_M = 2.5  # up to which distance of the camera lengths are read in centimetres
CAPTIONS = ("Episode 1, first frame", "Episode 1, last frame")
HINT = (
    "Drag to turn, with Shift to move, click and scroll to zoom; on the keyboard: arrow keys, with Shift to "
    "move, + and \N{MINUS SIGN} to zoom, space to play, Home to go back to the first view."
)


def viewer(recording: JSON, stills: Sequence[bytes] = ()) -> Html:
    """The 3-D view of a recording (`pipelines.scene.footage.recording`), with its script.

    Below it, and alone where the browser has no WebGL: PNGs of an episode's first and last frame."""
    near = recording["camera"]["distance"] < NEAR_M
    scale, unit = centimetres(recording["unit"]) if near else (1.0, recording["unit"])
    shown = {**recording, "scale": scale, "unit": "" if unit == "1" else unit}
    # In a script element nothing is unescaped, but "<" could end it.
    data = Html(json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c"))
    label = "Robot, goal and path in a recorded episode."
    return joined(
        element(
            "div",
            element(
                "div",
                element(
                    "canvas",
                    id="scene",
                    tabindex=0,
                    role="application",
                    aria_label=label,
                    aria_describedby="keys",
                ),
                _controls(len(recording["episodes"]), recording["mobile"]),
                element("p", element("output", id="readout", aria_live="off"), class_="readout"),
                element("p", HINT, class_="note screen-only", id="keys"),
                id="controls",
            ),
            element(
                "p", "This browser has no WebGL 2, which the 3-D view needs.", id="no-webgl", hidden="hidden"
            ),
            element("noscript", element("p", "The 3-D view needs JavaScript.")),
            _figures(stills),
            element("script", data, type="application/json", id="recording"),
            id="viewer",
        ),
        element("script", joined(*(Html(_script(name)) for name in SCRIPTS)), type="module"),
    )


def _controls(episodes: int, mobile: bool) -> Html:
    choices = [element("option", f"episode {i + 1}", value=i) for i in range(episodes)]
    paces = [
        element(
            "option",
            f"{pace:g} \N{MULTIPLICATION SIGN}",
            value=pace,
            selected="selected" if pace == 1 else None,
        )
        for pace in (0.25, 0.5, 1, 2, 4, 8)
    ]
    followed = element(
        "label", Html('<input type="checkbox" id="follow">'), " follow", hidden=None if mobile else "hidden"
    )
    return element(
        "div",
        element("button", "Play", type="button", id="play"),
        Html('<input type="range" id="time" min="0" max="0" value="0" aria-label="time">'),
        element("select", *choices, id="episode", aria_label="recorded episode"),
        element("select", *paces, id="pace", aria_label="speed"),
        followed,
        element("button", "Reset view", type="button", id="reset"),
        class_="controls",
    )


def _figures(stills: Sequence[bytes]) -> Html | None:
    figures = [
        element("figure", element("figcaption", caption), _image(still, caption))
        for caption, still in zip(CAPTIONS, stills, strict=False)
    ]
    return element("div", *figures, class_="plots stills") if figures else None


def _image(png: bytes, description: str) -> Html:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Html(f'<img src="{source}" alt="{description}">')


def _script(name: str) -> str:
    return (files("pipelines.report") / name).read_text(encoding="utf-8")
