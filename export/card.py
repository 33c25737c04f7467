"""The model card: what a robotics engineer has to know before the policy moves anything."""

import json
from collections.abc import Mapping
from typing import Any

from export.safe import hold_action
from teacher.spec import GoalSpec, TaskSpec

_USE = """\
## Use

```python
import numpy as np
from controller import load

controller = load(".")
action = controller.step(obs, goal)  # float32 arrays, every {dt} s
offset, scale = (np.array(controller.spec["action"][key]) for key in ("offset", "scale"))
command = offset + scale * action
```

`run(controller, robot, goal, seconds)` of the same file is the whole loop: the right rate, deadlines
counted, the robot held while its readings are stale, stopped whatever happens; `Guard` ramps its commands
up and keeps them within the limits of `spec.json`.

`python controller.py` checks this directory and measures a step on your computer; Python 3.8 or later,
numpy and onnxruntime are enough. `policy.onnx` takes `obs` and `goal`; `policy_flat.onnx` takes the two as
one input, `obs` = [obs; goal], and answers the same. `policy_safe.onnx` takes `obs` and `goal`, clips its
actions to [-1, 1] and answers {hold} where an input is not finite; its second output, `outside`, tells how
far the observation lies beyond those of its proof, and the goal beyond the range that it was trained in, in
widths of these ranges. It has no memory:
limits of rates and timeouts are the controller's. `critic.onnx` tells how far a goal is. `golden.npz` holds
recorded inputs and actions for any other runtime to be tested with, `test_data_set_0` the first of them in
ONNX's own form.
"""


_SENSED = """
The first {size} entries are the newest reading of the sensors, the others the readings before it,
{history} in all, the oldest last. `controller.observe(reading)` keeps them: call `controller.reset()` where
an episode begins, then `action = controller.step(controller.observe(reading), goal)` every period."""


def model_card(spec: TaskSpec, provenance: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
      provenance: where the policy is from; nested values stay in spec.json, the others are listed.
      facts: how good it is, by the name to print, e.g. {"success": 0.99}."""
    flat = {key: value for key, value in provenance.items() if not isinstance(value, (Mapping, list, tuple))}
    sections = [
        f"# Policy for the task {spec.name}, version {spec.version}\n",
        _USE.format(dt=_number(spec.control_dt), hold=[float(a) for a in hold_action(spec)]),
        _list("Trained on", {"task": f"{spec.name}, episodes of {spec.episode_length} steps", **flat}),
        _list("How good it is", facts) if facts else "",
        _inputs(spec),
        _actions(spec),
        _limits(spec),
    ]
    return "\n".join(section for section in sections if section)


def _inputs(spec: TaskSpec) -> str:
    goal, (size, _, goal_size) = spec.sensed_goal, spec.sensed_sizes
    lines = [f"## Inputs\n\n`obs` [{size}]:\n", "| entries | term | unit | frame | names |"]
    lines.append("|---|---|---|---|---|")
    for term in spec.sensed_observation:
        names = ", ".join(term.entries)
        lines.append(f"| {term.start}:{term.stop} | {term.name} | {term.unit} | {term.frame} | {names} |")
    if spec.deployed:
        lines.append(_SENSED.format(size=spec.deployed.reading_size, history=spec.deployed.history))
    lines.append(f"\n`goal` [{goal_size}], {goal.name} in {goal.unit}, {goal.frame} frame:\n")
    lines += _trained_goals(spec.goal) if goal.frame == spec.goal.frame else _told_goals(spec)
    radius = f"{_number(spec.goal.success_radius)} {spec.goal.unit}"
    lines.append(f"\nA goal counts as reached within {radius}.\n")
    return "\n".join(lines)


def _trained_goals(goal: GoalSpec) -> list[str]:
    lines = ["| entry | name | trained from | to |", "|---|---|---|---|"]
    for i, (entry, low, high) in enumerate(zip(goal.entries, goal.low, goal.high, strict=True)):
        lines.append(f"| {i} | {entry} | {_number(low)} | {_number(high)} |")
    return lines


def _told_goals(spec: TaskSpec) -> list[str]:
    """Entries that have no range of their own, and the range of the goals that they tell of."""
    lines = ["| entry | name |", "|---|---|"]
    lines += [f"| {i} | {entry} |" for i, entry in enumerate(spec.sensed_goal.entries)]
    goal = spec.goal
    ranges = (
        f"{entry} from {_number(low)} to {_number(high)}"
        for entry, low, high in zip(goal.entries, goal.low, goal.high, strict=True)
    )
    return [*lines, f"\nTrained for goals in the {goal.frame} frame with {', '.join(ranges)} {goal.unit}."]


def _actions(spec: TaskSpec) -> str:
    action, joints = spec.action, spec.joints
    lines = [
        f"## Output\n\n`actions` [{spec.action_size}] in [-1, 1]; "
        f"{', '.join(dict.fromkeys(action.kinds))} in {action.unit} = offset + scale * action:\n",
        "| entry | joint | scale | offset |\n|---|---|---|---|",
    ]
    for i, (joint, scale, offset) in enumerate(zip(action.joints, action.scale, action.offset, strict=True)):
        lines.append(f"| {i} | {joint} | {_number(scale)} | {_number(offset)} |")
    if joints.slowdown > 0:
        k, margin = _number(joints.slowdown), _number(joints.margin)
        lines.append(
            "\nIn training the commanded velocity v was cut near the position limits, and the robot must do "
            f"the same: -{k} * (q - lower - {margin}) <= v <= {k} * (upper - {margin} - q), "
            f"with q, lower and upper in {joints.unit}; the limits stand in `spec.json`."
        )
    return "\n".join(lines) + "\n"


def _limits(spec: TaskSpec) -> str:
    goal = spec.goal
    return (
        "## What it must not be asked\n\n"
        f"- Goals outside the training range above, or in another frame than {spec.sensed_goal.frame}.\n"
        f"- Another control period than {_number(spec.control_dt)} s, another joint order, other units.\n"
        f"- To come closer than it was judged: success is {_number(goal.success_radius)} {goal.unit}, "
        f"the strict radius {_number(goal.strict_radius)} {goal.unit}.\n"
        "- To avoid anything that the task does not contain. It learned in simulation and limits neither "
        "force nor rate: the robot's own safety functions stay on.\n"
    )


def _list(title: str, values: Mapping[str, Any]) -> str:
    lines = [f"- {key.replace('_', ' ')}: {_number(value)}" for key, value in values.items()]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
