"""What distillation is compared with: a student's own network, made without a teacher or with less of one.

direct         contrastive RL of the small network, actor and encoders, with the teacher's environment steps
shallow_actor  the same of the small actor beside encoders as deep as the teacher's (arXiv:2503.14858, fig. 6)
cloning        behaviour cloning: labels on the teacher's own episodes alone, without noise
dagger         DAgger (arXiv:1011.0686): the students act, but no goal is relabelled

The first two observe what the teacher does, also where students see less: an easier task than theirs.
"""

from collections.abc import Mapping
from typing import Any

from student.config import StudentConfig
from teacher.config import TeacherConfig
from teacher.errors import UsageError, unknown_name

# Which of a teacher's networks are of the student's size instead.
PLAIN: dict[str, tuple[str, ...]] = {
    "direct": ("plain_actor", "plain_critic"),
    "shallow_actor": ("plain_actor",),
}
NAMES = (*PLAIN, "cloning", "dagger")


def named(text: str) -> tuple[str, ...]:
    """`all`, or names with commas between them -> those in the order of `NAMES`; UsageError for others."""
    asked = NAMES if text.strip() == "all" else [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in NAMES:
            raise unknown_name("baseline", name, ("all", *NAMES))
    return tuple(name for name in NAMES if name in asked)


def trained_directly(name: str, config: TeacherConfig, size: str) -> TeacherConfig:
    """A teacher's settings with the networks in `PLAIN[name]` plain and of this size; all else the same,
    but that it is trained to the end of `collect.total_steps`, whatever score ended its teacher."""
    network = config.network.model_dump() | dict.fromkeys(PLAIN[name], size)
    if name == "direct":
        network["fused"] = False  # there are no residual blocks to fuse
    evaluate = config.evaluate.model_dump() | {"until": None}
    return TeacherConfig.model_validate(config.model_dump() | {"network": network, "evaluate": evaluate})


def distilled(name: str, config: StudentConfig, size: str) -> StudentConfig:
    """A distillation's settings for this one size, on as many states, less what the baseline leaves out."""
    left_out: dict[str, Any] = {"sizes": (size,), "choose": None, "goals": (1.0, 0.0, 0.0, 0.0)}
    if name == "cloning":
        left_out |= {"teacher_rounds": config.rounds, "noise": 0.0}
    return StudentConfig.model_validate(config.model_dump() | left_out)


def expected_s(name: str, teacher: Mapping[str, Any], config: StudentConfig, episode_length: int) -> float:
    """Seconds that a baseline may take, from those of its teacher in proportion to environment steps.

    Args: teacher: `wall_s` and `env_steps` of its training. A small network is faster: this is an upper
    estimate where physics do not take all the time."""
    share = 1.0 if name in PLAIN else config.rounds * config.envs * episode_length / teacher["env_steps"]
    return share * teacher["wall_s"]


def require_budget(expected: Mapping[str, float], budget_s: float | None) -> None:
    """Refuses baselines, by name with their seconds, that together take more than the budget.

    Raises: UsageError that names those which fit, the cheapest first."""
    total = sum(expected.values())
    if budget_s is None or total <= budget_s:
        return
    fitting, spent = [], 0.0
    for name in sorted(expected, key=lambda name: expected[name]):
        spent += expected[name]
        if spent <= budget_s:
            fitting.append(name)
    parts = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in expected.items())
    advice = f"--baselines {','.join(fitting)} fits" if fitting else "none of them fits"
    raise UsageError(
        f"student.baseline_budget_s: found {budget_s:g}, but these take about {total:,.0f} s ({parts}); "
        f"{advice}"
    )


def conclusion(figures: Mapping[str, Any]) -> str | None:
    """Whether distillation beat direct training, in a sentence; None if that was not tried.

    Args: figures: of each baseline, with `size`, `time_at_goal` and `student_gain`, by how much longer the
    distilled student was at its goals in the same episodes, with its interval."""
    direct = figures.get("direct")
    if direct is None:
        return None
    low, high = direct["student_gain_interval"]
    outcome = "beats" if low > 0 else "does worse than" if high < 0 else "does not surely beat"
    student, alone = (
        _percent(share) for share in (direct["time_at_goal"] + direct["student_gain"], direct["time_at_goal"])
    )
    return (
        f"Distillation {outcome} direct training: the distilled {direct['size']} student is at its goal "
        f"{student} of the time, the same network trained directly with its teacher's number of environment "
        f"steps {alone} (difference, paired: {_percent(low)} to {_percent(high)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"
