"""The recorded episodes to look at from all sides: markup and data for viewer.js."""

import json
from typing import Any

from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element
from pipelines.report.wording import centimetres

MAX_FRAMES = 400  # of one episode; a longer one is thinned, or it would make the page heavy


def viewer(findings: Findings) -> Html | None:
    """The 3-D view; None if no episode was recorded."""
    recording = findings.recording
    if not recording or not recording["episodes"]:
        return None
    scale, unit = centimetres(findings.unit)
    record = {
        "control_dt": recording["control_dt"],
        "success_radius": recording["success_radius"],
        "scale": scale,
        "unit": unit or "",
        "episodes": [_thinned(episode) for episode in recording["episodes"]],
    }
    # In a script element nothing is unescaped, but "<" could end it.
    data = Html(json.dumps(record, separators=(",", ":")).replace("<", "\\u003c"))
    choices = [element("option", f"episode {i + 1}", value=i) for i in range(len(recording["episodes"]))]
    label = "Robot, goal and path of the tip in a recorded episode. Arrow keys turn the view."
    return element(
        "div",
        element("canvas", id="scene", tabindex=0, role="img", aria_label=label),
        element(
            "div",
            element("button", "Play", type="button", id="play"),
            element("input", type="range", id="frame", min=0, max=0, value=0, aria_label="time"),
            element("select", *choices, id="episode", aria_label="recorded episode"),
            class_="controls",
        ),
        element("p", element("output", id="readout"), class_="readout"),
        element("p", "Drag to turn; on the keyboard: arrow keys, space to play.", class_="note screen-only"),
        element("noscript", element("p", "The view needs JavaScript.")),
        element("script", data, type="application/json", id="recording"),
        id="viewer",
    )


def _thinned(episode: JSON) -> dict[str, Any]:
    """The episode with the number of each kept step; the last step is among them."""
    length = len(episode["points"])
    stride = -(-length // MAX_FRAMES) or 1
    steps = list(range(length))[::-1][::stride][::-1]
    return {
        "goal": episode["goal"],
        "steps": [step + 1 for step in steps],
        "points": [episode["points"][step] for step in steps],
        "distance": [episode["distance"][step] for step in steps],
    }
