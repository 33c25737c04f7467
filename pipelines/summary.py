"""The schema of summary.json: every figure of a run and of a sweep, with its meaning.

`docs/summary.md` is made of it: python -m pipelines.summary > docs/summary.md"""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

Interval = tuple[float, float]  # 95 %
Json = dict[str, Any]


class Figures(BaseModel):
    """Figures that a stage has computed; one that it has not is absent, never zero."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def described(text: str, default: Any = None) -> Any:
    return Field(default, description=text)


class Retained(Figures):
    """What is kept of a teacher's time at goal."""

    retention: float | None = described(
        "time at goal over the teacher's. Absent when the teacher was at a goal so rarely that the "
        "ratio has no "
        "interval"
    )
    retention_interval: Interval | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_two_ends(cls, values: Any) -> Any:
        """Reads the interval's ends from where earlier versions wrote them."""
        if isinstance(values, dict) and {"retention_low", "retention_high"} <= values.keys():
            low, high = values["retention_low"], values["retention_high"]
            rest = {
                key: value for key, value in values.items() if not re.fullmatch("retention_(low|high)", key)
            }
            return {"retention_interval": (low, high)} | rest
        return values


class Score(Figures):
    """A **score** is over `episodes` held-out starts and goals, the same for every policy of a task."""

    episodes: int | None = described("number of held-out episodes")
    layout: str | None = described(
        "how goals were laid out: one of the task's layouts, `pipeline tasks` lists them. Scores of "
        "different "
        "layouts are of different tasks"
    )
    time_at_goal: float | None = described("share of an episode's steps within the task's success radius")
    time_at_goal_interval: Interval | None = None
    time_near_goal: float | None = described("share of an episode's steps within the easy radius")
    time_near_goal_interval: Interval | None = None
    success_final: float | None = described(
        "share of episodes within the success radius at the last step; none that ended early"
    )
    success_final_interval: Interval | None = None
    success_any: float | None = described("share of episodes within the success radius at any step")
    success_any_interval: Interval | None = None
    strict_final: float | None = described(
        "share within the tighter radius (`fr3_reach`: 2 cm) at the last step"
    )
    strict_final_interval: Interval | None = None
    final_distance: float | None = described("mean distance at the last step, in the goal's unit")
    final_distance_interval: Interval | None = None


class MazeDistance(Figures):
    """Sets the critic's distances against the ways through the maze.

    In `states` of the reference policy's held-out episodes, evenly over their steps, with the action taken
    there, the critic is asked how far the centre of each free cell is. Where a task states no reference
    policy, the states are of the teacher's own episodes, and figures of teachers that go elsewhere are of
    other states.

    `teacher/distances.npz` keeps what the report draws of them: `critic` and `cells`, the distances from the
    first state in the maze's grid (NaN in walls), and of all pairs the `quartiles` of the critic's distance
    by the number of cells to walk, `steps`."""

    states: int | None = described("number of states asked from")
    cells: int | None = described("number of free cells asked for")
    rank_correlation: float | None = described(
        "Spearman's, of its distance and the number of cells to walk, over all pairs of a state and a cell"
    )
    rank_correlation_far: float | None = described(
        "the same over pairs at least 8 cells apart. Near pairs are easy: there the straight line is "
        "nearly right"
    )
    rank_correlation_straight: float | None = described(
        "the first of the straight line in place of the critic"
    )
    rank_correlation_far_straight: float | None = described("the second of the straight line likewise")


class TeacherFigures(Score):
    """The teacher's last evaluation, and what it took."""

    depth: int | None = described("hidden layers of the actor")
    width: int | None = described("width of the actor")
    critic_depth: int | None = described("hidden layers of each encoder")
    critic_width: int | None = described("width of the encoders")
    env_steps: int | None = described("control steps over all environments")
    wall_s: float | None = described("seconds of training, added up over resumptions")
    ended_by: str | None = described(
        "`collect.total_steps`, or `evaluate.until` where an evaluation reached that"
    )
    latency_us_p50: float | None = described("of one answer in JAX, where the students were exported")
    share_of_reference: float | None = described(
        "time at goal over that of the task's reference policy in the same episodes, where it states one"
    )
    share_of_reference_interval: Interval | None = None
    maze_distance: MazeDistance | None = described("where the task states a maze")


class CriticAgreement(Figures):
    """Agreement with the teacher's critic, in one state of each of up to 256 held-out episodes."""

    spearman_actions: float | None = described(
        "mean rank correlation of the distances to one goal, over 32 random actions in one state"
    )
    spearman_states: float | None = described("the same over all the states")
    best_action: float | None = described("how often both find the same of these actions best")
    top1: float | None = described("how often both find the same of the goals nearest")
    gradient_cosine: float | None = described(
        "mean cosine between the derivatives of the distance with respect to the action"
    )
    distance_error: float | None = described(
        "mean absolute difference of the distances from all states to all goals"
    )
    distance_error_relative: float | None = described(
        "the same in standard deviations of the teacher's distances"
    )


class Decile(Figures):
    """Mean time at goal in a tenth of the episodes."""

    student: float | None = described("the student's")
    teacher: float | None = described("the teacher's")
    difference_interval: Interval | None = described("of their difference, over pairs of episodes")


class PolicyError(Figures):
    """Root mean square difference of an action's entries from the teacher's."""

    teacher_states: float | None = described("on states of the teacher's held-out episodes")
    own_states: float | None = described("on states of the student's own")


class Calibration(Figures):
    """The critic's distance beside the time it took to the goal, in the student's own episodes.

    Absent where hardly any state came to its goal."""

    states: int | None = described("number of states")
    horizon_s: float | None = described("seconds for which each was followed")
    distance: list[float] | None = described("median of each of ten groups of states, ordered by distance")
    seconds: list[list[float | None]] | None = described(
        "quartiles of the time to the goal in each group (null: later or never)"
    )
    arrived: list[float] | None = described("share of each group that came to the goal")
    rank_correlation: float | None = described("Spearman's, of distance and time")
    rank_correlation_straight: float | None = described("the same of the plain distance to the goal")


class Condition(Retained):
    """Student and teacher under one harder condition, with the same starts, goals, noise and pushes."""

    student: float | None = described("the student's mean time at goal")
    student_interval: Interval | None = None
    teacher: float | None = described("the teacher's")
    teacher_interval: Interval | None = None
    excess_drop: float | None = described(
        "by how much more the student's time at goal fell than the teacher's, from `nominal` to this "
        "condition"
    )
    excess_drop_interval: Interval | None = None


class Robustness(Figures):
    """The selected student under harder conditions. Those that the engine cannot produce are absent.

    | condition | what differs |
    |---|---|
    | `nominal` | nothing |
    | `noise` | Gaussian noise on what each policy sees, a tenth of each entry's standard deviation in the teacher's episodes |
    | `push` | five pushes an episode on average: sudden changes of velocity as in the task's training, or of up to 0.5 m/s or rad/s |
    | `friction_less`, `friction_more`, `mass_less`, `mass_more` | by a fifth |
    | `delay_1`, `delay_2`, `delay_3` | actions come late by that many control steps |
    | `goals_beyond` | goals just outside the training range, by up to a quarter of half its width |"""  # noqa: E501

    episodes: int | None = described("episodes under each condition")
    student_sha256: str | None = described("fingerprint of the student")
    conditions: dict[str, Condition] | None = described("by name of the condition")


class StudentFigures(Score, Retained):
    """A score of the **exported file** in the training engine, and what it keeps of its teacher.

    What it keeps is measured on the same episodes as its score; intervals are bootstraps over pairs of
    episodes."""

    parameters: int | None = described("of the policy")
    wall_s: float | None = described("seconds of distillation, of all sizes together")
    labels: int | None = described("labels asked of the teacher, for all sizes together")
    env_steps: int | None = described("control steps taken for them")
    seed_kept: int | None = described("with several seeds (`student.seeds`): the one that is exported")
    time_at_goal_of_seeds: list[float] | None = described("with several seeds: of each, on training starts")
    teacher_time_at_goal: float | None = described("the teacher's in these episodes")
    teacher_parameters: int | None = described("of the teacher's actor")
    success_retention: float | None = described(
        "`success_final` over the teacher's; absent as `retention` is"
    )
    success_retention_interval: Interval | None = None
    final_distance_change: float | None = described(
        "how much further from the goal the student ends, in the goal's unit"
    )
    final_distance_change_interval: Interval | None = None
    hardest_decile: Decile | None = described(
        "the tenth of episodes that is hardest for the teacher (its time at goal is shortest there). "
        "Chosen by the "
        "teacher's luck as well as by difficulty, so that a faithful student may come out ahead"
    )
    worst_decile: Decile | None = described(
        "each in its own worst tenth: it also shows goals that the student alone has lost"
    )
    policy_error: PolicyError | None = described("how far its actions are from the teacher's")
    critic: CriticAgreement | None = described("how far its critic agrees with the teacher's")
    calibration: Calibration | None = described("its critic's distance beside the time to the goal")
    robustness: Robustness | None = described("of the selected student")


class Latencies(Figures):
    """Microseconds of a computation on this machine, one thread."""

    latency_us_p50: float | None = described("median")
    latency_us_p99: float | None = described("99th percentile")


class ExportFigures(Latencies):
    """A bundle, and how close ONNX Runtime comes to JAX; latencies are of `session.run` of `policy.onnx`."""

    bundle: str | None = described("relative to the run")
    student_sha256: str | None = described("fingerprint of the student")
    parity_max_error: float | None = described("largest difference of an action's entry")
    distance_max_error: float | None = described("largest difference of the critic's distance")
    observations: int | None = described("number compared")
    profiles: list[str] | None = described("controllers whose files it holds too")


class ControlFigures(Score, Latencies):
    """The exported controller in closed loop in another engine; latencies are of its `step`.

    Kept only for the run's own settings and held-out episodes."""

    engine: str | None = described("the simulator")
    steps: int | None = described("answers given")
    latency_us_max: float | None = described("the longest answer, of robots asked one after the other")
    missed_deadlines: int | None = described("answers later than the control period")
    student_sha256: str | None = described("fingerprint of the student")


class RobotFigures(Latencies):
    """The last `pipeline control --robot`; latencies are from reading to writing."""

    robot: str | None = described("`fr3`, or `fr3-sim`, the simulated one")
    goals: int | None = described("number of goals, one after another")
    reached: int | None = described("those within the success radius when their time was over")
    worst_distance_m: float | None = described("of the ends")
    mean_distance_m: float | None = described("of the ends")
    distances_m: list[float] | None = described("of each end")
    tool_m: list[float] | None = described(
        "the point that came to the goals, from the flange, where not the flange"
    )
    steps: int | None = described("control periods")
    held: int | None = described("those in which the robot was held for want of a fresh reading")
    missed_deadlines: int | None = described("periods that were over before the command was sent")
    latency_us_max: float | None = described("the longest")
    student_sha256: str | None = described("fingerprint of the student")
    limit_violations: int | None = described(
        "states beyond a limit; null for a real robot, which keeps no log"
    )
    violations: dict[str, int] | None = described("by kind of limit, of a simulated robot, as the rest")
    states: int | None = described("one a millisecond")
    late_packets: int | None = described("states in motion without a new command")
    largest_acceleration: float | None = described("rad/s², of commands")
    largest_acceleration_delivered: float | None = described(
        "rad/s², from one state to the next, late packets and all"
    )
    largest_velocity_share: float | None = described("of the velocity limit")


class BaselineFigures(Score, Retained):
    """What the distilled student is compared with, on the teacher's held-out episodes.

    Written by `pipeline distill RUN --baselines NAME,...` (or `all`): `direct` (a residual network with
    LayerNorm of depth 4 and the student's width, actor and encoders, trained with the teacher's settings and
    number of steps), `direct_long` (the same gone on with, at the pace measured until then, for as long as
    `teacher.wall_s`, but never shorter than `direct`, which it brings), `shallow_actor` (that actor beside
    encoders as deep as the teacher's), `cloning` and `dagger`."""

    size: str | None = described("of the student that it is compared with")
    parameters: int | None = described("of its policy; of a residual one more than of the student's")
    student_parameters: int | None = described("of the student's policy")
    env_steps: int | None = described("control steps over all environments")
    labels: int | None = described("labels asked of the teacher, where there are any")
    wall_s: float | None = described("seconds of training")
    student_gain: float | None = described(
        "by how much longer the distilled student of this size is at its goals"
    )
    student_gain_interval: Interval | None = None
    teacher_sha256: str | None = described("fingerprint of the teacher")
    student_sha256: str | None = described("fingerprint of the student")


class Summary(Figures):
    """Every run directory holds `summary.json`; stages add to it as they finish, and `pipeline run --json`
    prints it.

    A figure that was not computed is absent, never zero. Every mean or share `key` over episodes has its 95 %
    interval beside it as `key_interval: [low, high]` (Wilson for shares, bootstrap for means)."""

    task: str | None = described("what was learned")
    engine: str | None = described("the simulator it was learned in")
    seed: int | None = described("the run's")
    wall_s: float | None = described("seconds of `pipeline run`, added up over resumptions")
    teacher: TeacherFigures | None = described("the teacher")
    reference: Score | None = described(
        "a score of the task's reference policy, a controller that knows the task, on the teacher's held-out "
        "episodes: what can be reached there. Absent where the task states none "
        "([own-task.md](own-task.md#what-is-known-of-the-task))"
    )
    students: dict[str, StudentFigures] = described("by size", {})
    selected: str | None = described(
        "the smallest student whose retention's lower bound reaches `student.retention`, or the one that "
        "`student.choose` names; if none reaches it, the one longest at its goals"
    )
    selected_passes: bool | None = described("whether its lower bound reaches it")
    selected_because: str | None = described(
        "the reason in words, which also says what limits students that keep too little, and the next step"
    )
    export: dict[str, ExportFigures] = described("by size", {})
    control: dict[str, ControlFigures] = described("by size", {})
    robot: dict[str, RobotFigures] = described("by size", {})
    baselines: dict[str, BaselineFigures] = described("by name", {})

    @model_validator(mode="after")
    def _selected_is_a_student(self) -> Self:
        if self.selected is not None and self.selected not in self.students:
            raise ValueError(
                f"selected is {self.selected!r}, students are {', '.join(self.students) or 'none'}"
            )
        return self


class Parameters(Figures):
    """Numbers of parameters."""

    actor: int = described("of the actor")
    critic: int = described("of both encoders together")


class SweepRun(Summary):
    """One run of a sweep: its own `summary.json`, and how it stands."""

    run: str = described("its directory within the sweep")
    values: Json = described("of the varied settings")
    state: str = described("`finished`, `diverged`, `out of memory`, `unfinished` (stopped) or `not begun`")
    error: str | None = described("why it has no score; only if it diverged or did not fit into memory")
    stage_errors: dict[str, str] | None = described(
        "why `distill` or `export` failed in this run, by the name of the stage; absent where none "
        "did. That no "
        "student keeps enough is no failure of the stage: `selected_passes` and `selected_because` say it"
    )
    iteration: int | None = described("the last one")
    env_steps_per_s: float | None = described(
        "control steps a second with their updates, in the median iteration, which holds neither "
        "compilation nor "
        "evaluation"
    )
    parameters: Parameters = described("numbers of parameters")


class Combination(Score):
    """Means over the finished runs of one combination of values.

    `key_interval` is the 95 % interval of the mean over seeds (Student's t, kept within what is possible). It
    is absent for one seed and where all seeds agree exactly: there is no spread to estimate it from."""

    values: Json = described("of the varied settings")
    seeds: list[int] = described("of the runs that finished")
    parameters: Parameters = described("numbers of parameters")
    share_of_reference: float | None = described("of the teacher")
    share_of_reference_interval: Interval | None = None
    rank_correlation: float | None = described("of `teacher.maze_distance`")
    rank_correlation_interval: Interval | None = None
    rank_correlation_far: float | None = described("likewise")
    rank_correlation_far_interval: Interval | None = None
    wall_s: float | None = described("seconds of training")
    env_steps_per_s: float | None = described("as in `runs`")


class SweepStudents(Figures):
    """Means over the runs of one combination of values in which a student of one size has been judged.

    Intervals are over seeds. A mean is absent if one of the runs lacks the figure."""

    values: Json = described("of the varied settings")
    size: str = described("of the students")
    seeds: list[int] = described("of these runs")
    parameters: int | None = described("of the policy")
    episodes: int | None = described("episodes in each run")
    time_at_goal: float | None = described("the student's")
    time_at_goal_interval: Interval | None = None
    retention: float | None = described("mean of the runs' retentions")
    retention_interval: Interval | None = None
    teacher_time_at_goal: float | None = described("its teacher's in the same episodes")
    teacher_time_at_goal_interval: Interval | None = None


class SweepSummary(Figures):
    """`summary.json` of a sweep.

    `pipeline teacher` with `--depths`, `--vary` or `--seeds` writes it, and `--json` prints it; so do
    `pipeline distill` and `pipeline export` of a sweep. `study.json` beside it holds what was asked for."""

    preset: str = described("shared by all runs")
    vary: dict[str, list[Any]] = described("the values of each varied setting, by `group.field`")
    seeds: list[int] = described("every run's seed")
    wall_s: float = described("seconds of all runs together")
    runs: list[SweepRun] = described("one object a run, in the order of training")
    combinations: list[Combination] = described("one object a combination of values")
    students: list[SweepStudents] = described("one object a combination of values and a size of student", [])


def problem(error: ValidationError) -> str:
    """Says which figure is wrong first, and why."""
    first = error.errors()[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def document() -> str:
    """Returns the tables of docs/summary.md, in Markdown."""
    parts: list[tuple[str, type[Figures]]] = [("Summary", Summary), ("A score", Score)]
    parts += [*_parts(Summary), ("Sweeps", SweepSummary)]
    parts += _parts(SweepSummary)
    return "\n\n".join(f"## {title}\n\n{_table(model)}" for title, model in parts) + "\n"


def _parts(model: type[Figures], path: str = "") -> Iterator[tuple[str, type[Figures]]]:
    """Yields every model that a model holds, with its place in the file, those within it after it."""
    for name, field in _own(model):
        for inner, named in _models(field.annotation):
            key = "NAME" if name in ("baselines", "conditions") else "SIZE"
            place = f"{path}{name}" + (f".{key}" if named else "")
            if inner is not Score and (inner is not Parameters or name == "parameters"):
                yield f"`{place}`", inner
                yield from _parts(inner, f"{place}.")


def _models(annotation: Any, named: bool = False) -> Iterator[tuple[type[Figures], bool]]:
    """Yields the models in an annotation, and whether names lead to them."""
    if isinstance(annotation, type) and issubclass(annotation, Figures):
        yield annotation, named
    else:
        for inner in get_args(annotation):
            yield from _models(inner, named or get_origin(annotation) is dict)


def _own(model: type[Figures]) -> Iterator[tuple[str, FieldInfo]]:
    """Yields the fields of a model that belong in its own table: none of a score's or of a whole run's."""
    shared = next((each for each in (Summary, Score) if issubclass(model, each) and model is not each), None)
    for name, field in model.model_fields.items():
        if field.description and name not in (shared.model_fields if shared else ()):
            yield name, field


def _table(model: type[Figures]) -> str:
    rows = [f"| `{name}` | {field.description} |" for name, field in _own(model)]
    if issubclass(model, Score) and model is not Score:
        rows.insert(0, "| a [score](#a-score) | its keys |")
    if issubclass(model, Summary) and model is not Summary:
        rows.insert(0, "| a [summary](#summary) | its keys |")
    return "\n".join([inspect.cleandoc(model.__doc__ or ""), "", "| key | meaning |", "|---|---|", *rows])


if __name__ == "__main__":
    print(document(), end="")
