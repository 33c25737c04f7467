"""Baselines of distillation: policies as narrow, made without a teacher or with less of one.

direct         contrastive RL of a shallow network, actor and encoders, with the teacher's environment steps
direct_long    the same network, trained until it has taken the teacher's wall time
shallow_actor  the shallow actor beside encoders as deep as the teacher's (arXiv:2503.14858, fig. 6)
cloning        behaviour cloning: labels on the teacher's own episodes alone, without noise
dagger         DAgger (arXiv:1011.0686): the students act, but no goal is relabelled

The first three are the best shallow networks that contrastive RL is known to train: a residual block with
LayerNorm, so depth 4, of the student's width (arXiv:2503.14858, section 4, which finds LayerNorm essential).
They observe what the teacher does, also where students see less: an easier task than theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from student.config import StudentConfig, parse_size
from teacher.config import BLOCK_DEPTH, TeacherConfig
from teacher.errors import UsageError, unknown_name

DEPTH = BLOCK_DEPTH
# How long each network is trained that is shallow throughout.
DIRECT = {
    "direct": "with its teacher's number of environment steps",
    "direct_long": "for its teacher's wall time",
}
TRAINED = (*DIRECT, "shallow_actor")
NAMES = (*TRAINED, "cloning", "dagger")


def parse_names(text: str) -> tuple[str, ...]:
    """Reads `all`, or names separated by commas, into the order of `NAMES`; UsageError for others.

    `direct_long` goes on from `direct` and includes it."""
    asked = {*NAMES} if text.strip() == "all" else {name.strip() for name in text.split(",")}
    for name in sorted(asked):
        if name not in NAMES:
            raise unknown_name("baseline", name, ("all", *NAMES))
    if "direct_long" in asked:
        asked.add("direct")
    return tuple(name for name in NAMES if name in asked)


def teacher_config(name: str, config: TeacherConfig, size: str) -> TeacherConfig:
    """Returns a teacher's settings with a shallow actor of this size's width, and in `DIRECT` encoders like
    it; all else is the same, but that it trains for all of `collect.total_steps`, whatever ended its
    teacher."""
    width = parse_size(size).width
    shallow: dict[str, int | None] = {"actor_depth": DEPTH, "actor_width": width}
    if name in DIRECT:
        shallow = dict.fromkeys(["actor_depth", "actor_width", "critic_depth"])
        shallow |= {"depth": DEPTH, "width": width}
    # The fused kernels take few widths, and give the same results up to rounding.
    network = config.network.model_dump() | shallow | {"fused": False}
    evaluate = config.evaluate.model_dump() | {"until": None}
    return TeacherConfig.model_validate(config.model_dump() | {"network": network, "evaluate": evaluate})


def with_iterations(config: TeacherConfig, iterations: int) -> TeacherConfig:
    """Returns the settings with as many environment steps as these iterations take."""
    collect = config.collect
    steps = iterations * collect.envs * collect.unroll_length
    return config.model_copy(update={"collect": collect.model_copy(update={"total_steps": steps})})


def iterations_within(wall_s: float, lines: Sequence[Mapping[str, Any]]) -> int:
    """Computes how many iterations a finished training would have done in `wall_s` seconds at its own pace.

    Args: lines: of its metrics, with `iteration` and `wall_s`. The first iteration, which compiles, does not
    count for the pace. Returns: at least as many as were done."""
    last, done = lines[-1], int(lines[-1]["iteration"])
    first = lines[0] if lines[0]["iteration"] < done else {"iteration": 0, "wall_s": 0.0}
    pace = (last["wall_s"] - first["wall_s"]) / (done - first["iteration"])
    return done + max(0, round((wall_s - last["wall_s"]) / pace))


def student_config(name: str, config: StudentConfig, size: str) -> StudentConfig:
    """Returns a distillation's settings for this one size, less what the baseline leaves out."""
    left_out: dict[str, Any] = {"sizes": (size,), "select": None, "goals": (1.0, 0.0, 0.0, 0.0)}
    if name == "cloning":
        left_out |= {"teacher_rounds": config.rounds, "noise": 0.0}
    return StudentConfig.model_validate(config.model_dump() | left_out)


def require_budget(
    names: Sequence[str], teacher: Mapping[str, Any], config: StudentConfig, episode_length: int
) -> None:
    """Refuses baselines that together take longer than `config.baseline_budget_s`, as far as can be foreseen.

    Seconds are the teacher's in proportion to environment steps: for `direct` and `shallow_actor` an upper
    bound where physics do not take all the time. `direct_long` takes the teacher's own time, and includes
    `direct`.
    Args: teacher: `wall_s` and `env_steps` of its training.
    Raises: UsageError with the seconds of each."""
    budget_s = config.baseline_budget_s
    share = config.rounds * config.envs * episode_length / teacher["env_steps"]
    expected = {name: (1.0 if name in TRAINED else share) * teacher["wall_s"] for name in names}
    if "direct_long" in expected:
        expected.pop("direct", None)
    total = sum(expected.values())
    if budget_s is None or total <= budget_s:
        return
    parts = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in expected.items())
    raise UsageError(
        f"student.baseline_budget_s: found {budget_s:g}, but these take about {total:,.0f} s: {parts}"
    )


def conclusion(figures: Mapping[str, Any]) -> str | None:
    """Says whether distillation beat direct training, a sentence for each length; None if none was tried.

    Args: figures: of each baseline, with `size`, `time_at_goal`, `env_steps`, `parameters`, those of the
    student, and `student_gain`, by how much longer the distilled student was at its goals in the same
    episodes, with its interval."""
    sentences = [_sentence(length, figures[name]) for name, length in DIRECT.items() if name in figures]
    return " ".join(sentences) or None


def _sentence(length: str, direct: Mapping[str, Any]) -> str:
    low, high = direct["student_gain_interval"]
    outcome = "beats" if low > 0 else "does worse than" if high < 0 else "does not surely beat"
    alone, gain = direct["time_at_goal"], direct["student_gain"]
    return (
        f"Distillation {outcome} direct training {length}: the distilled {direct['size']} student "
        f"({direct['student_parameters']:,} parameters) is at its goal {_percent(alone + gain)} of the time, "
        f"a residual network with LayerNorm of depth {DEPTH} and the same width "
        f"({direct['parameters']:,} parameters, {direct['env_steps']:,} steps) {_percent(alone)} "
        f"(difference, paired: {_percent(low)} to {_percent(high)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"
