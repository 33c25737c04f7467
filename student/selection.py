"""Which student to take, and what keeps the students from being good enough."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from student.config import StudentConfig

Assessments = Mapping[str, Mapping[str, Any]]  # by size, as in a summary's `students`
MUCH = 1.5  # times as large an error tells two kinds of states apart
LESS = 0.8  # times the error of the smallest student shows that size matters


class Selection(NamedTuple):
    """The student to take, whether it surely keeps enough of its teacher, and why it was taken."""

    size: str
    passes: bool
    because: str


def select(
    assessments: Assessments, config: StudentConfig, learned: Mapping[str, float] | None = None
) -> Selection:
    """Selects the smallest student whose retention's lower bound reaches `config.min_retention`.

    If `config.select` names one, it is that; if none reaches the bound, the one longest at its goals, and
    the reason says what limits it.
    Args:
      assessments: of each size `parameters`, `time_at_goal`, and, where defined, `retention` with its
        interval and `policy_error` on states of the teacher's and its own held-out episodes.
      learned: each size's error on the labels it was trained on, root mean square as `policy_error`."""
    required = config.min_retention
    passing = [s for s, a in assessments.items() if a.get("retention_interval", (0.0,))[0] >= required]
    if config.select is not None:
        return Selection(config.select, config.select in passing, f"{config.select} was asked for")
    if passing:
        size = min(passing, key=lambda s: assessments[s]["parameters"])
        surely = f" that surely keeps {_percent(required)} of its teacher's time at goal" if required else ""
        return Selection(size, True, f"{size} is the smallest{surely}")
    size = max(assessments, key=lambda s: assessments[s]["time_at_goal"])
    what = f"no student surely keeps {_percent(required)} of its teacher's time at goal"
    nearest = assessments[size]
    if "retention" in nearest:
        kept, low, high = map(_percent, (nearest["retention"], *nearest["retention_interval"]))
        what += f"; {size} comes nearest with {kept} ({low} to {high})"
    limit, step = _limit(assessments, size, config, learned or {})
    return Selection(size, False, f"{what}. What limits it {limit}. Next: {step}.")


def _limit(
    assessments: Assessments, size: str, config: StudentConfig, learned: Mapping[str, float]
) -> tuple[str, str]:
    """Returns what limits the students, of which `size` is nearest to enough, and the next step."""
    nearest = assessments[size]
    if "retention" not in nearest:
        teacher = "is its teacher, which was itself at its goals too rarely to compare with"
        return teacher, "train the teacher for longer (collect.total_steps)"
    if nearest["retention"] >= config.min_retention:
        episodes = "is the number of held-out episodes: its mean is high enough, its interval too wide"
        return episodes, f"export again with more of them (student.episodes={4 * config.episodes})"
    errors = {s: a["policy_error"]["teacher_states"] for s, a in assessments.items() if "policy_error" in a}
    if size not in errors:
        return "was not measured", "export again"
    held_out, own = errors[size], nearest["policy_error"]["own_states"]
    miss = f"its actions miss the teacher's by {held_out:.3f} on held-out states"
    if own >= MUCH * held_out:
        coverage = f"are states that the labels do not cover: {miss}, by {own:.3f} in its own episodes"
        return coverage, f"more rounds in which students act (student.rounds={2 * config.rounds})"
    if size in learned and held_out >= MUCH * learned[size]:
        labels = f"are labels: {miss}, by {learned[size]:.3f} on those it learned from"
        return labels, f"more of them in every round (student.envs={2 * config.envs})"
    smallest, largest = (f(errors, key=lambda s: assessments[s]["parameters"]) for f in (min, max))
    if size == largest and held_out <= LESS * errors[smallest]:
        error = f"falls with size, from {errors[smallest]:.3f} of {smallest} to {held_out:.3f} of {size}"
        return f"is capacity: the error of actions {error}", f"a larger student than {size} (student.sizes)"
    if len(errors) == 1:
        return (
            "is capacity or training: one size does not tell",
            f"a larger student beside {size} (student.sizes)",
        )
    more = f"more updates (student.updates={2 * config.updates})"
    return "is training, as far as the errors of its actions tell", more


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
