"""Which student is the one to take, and what keeps the students from being good enough."""

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
    """The smallest student whose retention's lower bound reaches `config.retention`.

    If `config.choose` names one, it is that; if none reaches the bound, the one longest at its goals, and
    the reason says what limits it.
    Args:
      assessments: of each size `parameters`, `time_at_goal`, and, where defined, `retention` with its
        bounds and `policy_error` on states of the teacher's and its own held-out episodes.
      learned: each size's error on the labels it was trained on, root mean square as `policy_error`."""
    required = config.retention
    passing = [s for s, a in assessments.items() if a.get("retention_low", 0.0) >= required]
    if config.choose is not None:
        return Selection(config.choose, config.choose in passing, f"{config.choose} was asked for")
    if passing:
        size = min(passing, key=lambda s: assessments[s]["parameters"])
        surely = f" that surely keeps {_percent(required)} of its teacher's time at goal" if required else ""
        return Selection(size, True, f"{size} is the smallest{surely}")
    size = max(assessments, key=lambda s: assessments[s]["time_at_goal"])
    what = f"no student surely keeps {_percent(required)} of its teacher's time at goal"
    if "retention" in assessments[size]:
        low, high = (_percent(assessments[size][f"retention_{end}"]) for end in ("low", "high"))
        what += f"; {size} comes nearest with {_percent(assessments[size]['retention'])} ({low} to {high})"
    return Selection(size, False, f"{what}. {limit(assessments, size, config, learned or {})}")


def limit(assessments: Assessments, size: str, config: StudentConfig, learned: Mapping[str, float]) -> str:
    """What limits the students, of which `size` is nearest to enough, and the next step; two sentences.

    The first of these that the figures show: a teacher that is itself never at its goals; too few episodes
    to be sure; states that no label covers (errors grow on the student's own states); too few labels
    (errors grow on held-out states); capacity (errors fall with size, and the largest is nearest); and else
    too few updates."""
    nearest = assessments[size]
    if "retention" not in nearest:
        return (
            "What limits them is the teacher, which was itself at its goals too rarely to compare with. "
            "Next: train the teacher for longer (collect.total_steps)."
        )
    if nearest["retention"] >= config.retention:
        return (
            "What limits it is the number of held-out episodes: its mean is high enough, its interval too "
            f"wide. Next: export again with more of them (student.episodes={4 * config.episodes})."
        )
    errors = {s: a["policy_error"]["teacher_states"] for s, a in assessments.items() if "policy_error" in a}
    if size not in errors:
        return "What limits it was not measured. Next: export again."
    held_out, own = errors[size], nearest["policy_error"]["own_states"]
    if own >= MUCH * held_out:
        return (
            f"What limits it are states that the labels do not cover: its actions miss the teacher's by "
            f"{own:.3f} in its own episodes, by {held_out:.3f} in the teacher's. "
            f"Next: more rounds in which students act (student.rounds={2 * config.rounds})."
        )
    if size in learned and held_out >= MUCH * learned[size]:
        return (
            f"What limits it are labels: its actions miss the teacher's by {held_out:.3f} on held-out "
            f"states, by {learned[size]:.3f} on those it learned from. "
            f"Next: more of them in every round (student.envs={2 * config.envs})."
        )
    smallest, largest = (f(errors, key=lambda s: assessments[s]["parameters"]) for f in (min, max))
    if size == largest and errors[largest] <= LESS * errors[smallest]:
        return (
            f"What limits it is capacity: the error of actions falls with size, from {errors[smallest]:.3f} "
            f"of {smallest} to {errors[largest]:.3f} of {largest}. "
            f"Next: a larger student than {largest} (student.sizes)."
        )
    if len(errors) == 1:
        return (
            "Whether capacity limits it or training, one size does not tell. "
            f"Next: a larger student beside {size} (student.sizes)."
        )
    return (
        "What limits it is training, as far as the errors of its actions tell. "
        f"Next: more updates (student.updates={2 * config.updates})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
