"""The schema of summary.json: every figure of a run and of a sweep, with its meaning.

The tables of `docs/summary.md` are made of it: python -m pipelines.summary prints them."""

import inspect
import re
from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Number = float | None
Count = int | None
Text = str | None
Interval = tuple[float, float]  # 95 %
Json = dict[str, Any]


class Figures(BaseModel):
    """Figures that a stage has computed; one that it has not is absent, never zero.

    Beside any of them, `key`, may stand its interval, `key_interval`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Interval] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key.removesuffix("_interval") not in cls.model_fields and key not in cls.model_fields:
                raise ValueError(f"{key} is not one of its figures")
        return values

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Leaves out what was not computed."""
        return [(name, value) for name, value in super().__repr_args__() if value not in (None, {})]

    def interval(self, key: str) -> Interval | None:
        return self.__pydantic_extra__.get(f"{key}_interval")

    def as_json(self) -> Json:
        return self.model_dump(mode="json", exclude_unset=True)


def doc(text: str, default: Any = None) -> Any:
    return Field(default, description=text)


class Retained(Figures):
    """What is kept of a teacher's time at goal."""

    retention: Number = doc(
        "time at goal divided by the teacher's; absent if the teacher's is too small for an interval"
    )


class Score(Figures):
    """A **score** is over `episodes` held-out starts and goals, the same for every policy of a task."""

    episodes: Count = doc("number of held-out episodes")
    layout: Text = doc("how goals were placed (`pipeline tasks`); different layouts cannot be compared")
    time_at_goal: Number = doc("share of an episode's steps within the task's success radius")
    time_near_goal: Number = doc("share of an episode's steps within the easy radius")
    success_final: Number = doc("share of episodes that end within the success radius, not early")
    success_any: Number = doc("share of episodes within the success radius at any step")
    strict_final: Number = doc("share within the tighter radius (`fr3_reach`: 2 cm) at the last step")
    final_distance: Number = doc("mean distance at the last step, in the goal's unit")
    final_angle: Number = doc("of poses: mean angle between the orientations at the last step, rad")


class MazeDistance(Figures):
    """Compares the critic's distances with the true ones in the maze.

    The critic estimates the distance from `states` of the reference policy's held-out episodes, evenly over
    their steps and with the action taken there, to the centre of each free cell. The true distance is the
    number of cells along the shortest way. If a task states no reference policy, the states are of the
    teacher's own episodes, and figures of teachers that go elsewhere are of other states.

    `teacher/distances.npz` keeps what the report draws of them: `critic` and `cells`, the distances from the
    first state in the maze's grid (NaN in walls), and of all pairs the `quartiles` of the critic's distance
    by the number of cells to walk, `steps`."""

    states: Count = doc("number of states")
    cells: Count = doc("number of free cells")
    rank_correlation: Number = doc("Spearman's, of the critic's distance and the true one, over all pairs")
    rank_correlation_far: Number = doc("the same over pairs at least 8 cells apart; near pairs are easy")
    rank_correlation_straight: Number = doc("`rank_correlation` of the straight line in place of the critic")
    rank_correlation_far_straight: Number = doc(
        "`rank_correlation_far` of the straight line in place of the critic"
    )


class TeacherFigures(Score):
    """The teacher's last evaluation, and what it took."""

    depth: Count = doc("hidden layers of the actor")
    width: Count = doc("width of the actor")
    critic_depth: Count = doc("hidden layers of each encoder")
    critic_width: Count = doc("width of the encoders")
    env_steps: Count = doc("control steps over all environments")
    wall_s: Number = doc("seconds of training, added up over resumptions")
    ended_by: Text = doc(
        "what ended training: `collect.total_steps`, `evaluate.until` if an evaluation reached it, or "
        "`policy.onnx` for a teacher from elsewhere"
    )
    policy_sha256: Text = doc("hash of that file")
    latency_us_p50: Number = doc("of one answer in JAX, on the machine that exported the students")
    share_of_reference: Number = doc("time at goal divided by that of the task's reference policy")
    idle_time_at_goal: Number = doc(
        "time at goal of a robot that does nothing or acts at random, whichever is longer; only beside a "
        "teacher whose own is less than half"
    )
    likely_causes: list[str] | None = doc("why the teacher is no better than that, as far as measured")
    maze_distance: MazeDistance | None = doc("if the task has a maze")

    @property
    def has_learned(self) -> bool:
        """Tells whether it is surely longer at its goals than a robot that does nothing, unless not known."""
        own, idle = self.interval("time_at_goal"), self.interval("idle_time_at_goal")
        return own is None or idle is None or own[0] > idle[1]


class CriticAgreement(Figures):
    """Agreement with the teacher's critic, in one state of each of up to 256 held-out episodes."""

    spearman_actions: Number = doc("mean rank correlation of distances to a goal, over 32 actions")
    spearman_states: Number = doc("the same over all the states")
    best_action: Number = doc("how often both critics choose the same of these actions")
    top1: Number = doc("how often both critics choose the same nearest goal")
    gradient_cosine: Number = doc("mean cosine between the distance's gradients with respect to the action")
    distance_error: Number = doc("mean absolute difference of the distances from all states to all goals")
    distance_error_relative: Number = doc("the same in standard deviations of the teacher's distances")


class Decile(Figures):
    """Mean time at goal in a tenth of the episodes."""

    student: Number = doc("the student's")
    teacher: Number = doc("the teacher's")
    difference_interval: Interval | None = doc("interval of the difference, over pairs of episodes")


class PolicyError(Figures):
    """Root mean square difference of an action's entries from the teacher's."""

    teacher_states: Number = doc("on states of the teacher's held-out episodes")
    own_states: Number = doc("on states of the student's own")


class Calibration(Figures):
    """The critic's distance beside the time it took to the goal, in the student's own episodes.

    Absent where hardly any state came to its goal."""

    states: Count = doc("number of states")
    horizon_s: Number = doc("seconds for which each state was followed")
    distance: list[float] | None = doc("median of each of ten groups of states, ordered by distance")
    seconds: list[list[float | None]] | None = doc("quartiles of the time to the goal in each (null: never)")
    arrived: list[float] | None = doc("share of each group that reached the goal")
    rank_correlation: Number = doc("Spearman's, of distance and time")
    rank_correlation_straight: Number = doc("the same of the plain distance to the goal")


class Condition(Retained):
    """Student and teacher under one harder condition, with the same starts, goals, noise and pushes."""

    student: Number = doc("the student's mean time at goal")
    teacher: Number = doc("the teacher's")
    excess_drop: Number = doc(
        "how much more the student's time at goal fell from `nominal` than the teacher's"
    )


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

    episodes: Count = doc("episodes under each condition")
    student_sha256: Text = doc("fingerprint of the student")
    conditions: dict[str, Condition] | None = doc("by name of the condition")


class StudentFigures(Score, Retained):
    """A score of the **exported file** in the training engine, and what it keeps of its teacher.

    What it keeps is measured on the same episodes as its score; intervals are bootstraps over pairs of
    episodes."""

    parameters: Count = doc("number of parameters of the policy")
    wall_s: Number = doc("seconds of distillation, of all sizes together")
    labels: Count = doc("labels from the teacher, for all sizes together")
    env_steps: Count = doc("control steps for these labels")
    seed_kept: Count = doc("with several seeds (`student.seeds`): the seed that is exported")
    time_at_goal_of_seeds: list[float] | None = doc(
        "with several seeds: the time at goal of each, on training starts"
    )
    teacher_time_at_goal: Number = doc("the teacher's time at goal in these episodes")
    teacher_parameters: Count = doc("number of parameters of the teacher's actor")
    success_retention: Number = doc("`success_final` divided by the teacher's; absent like `retention`")
    final_distance_change: Number = doc("how much further from the goal the student ends, in the goal's unit")
    hardest_decile: Decile | None = doc(
        "the tenth of episodes in which the teacher's time at goal is shortest: by its luck as well as by "
        "their difficulty, so that a faithful student may come out ahead"
    )
    worst_decile: Decile | None = doc("each in its own worst tenth; shows goals that only the student loses")
    policy_error: PolicyError | None = doc("how far its actions are from the teacher's")
    critic: CriticAgreement | None = doc("how far its critic agrees with the teacher's")
    calibration: Calibration | None = doc("its critic's distance compared with the time to the goal")
    robustness: Robustness | None = doc("of the selected student")


class Latencies(Figures):
    """Microseconds of a computation on this machine, one thread."""

    latency_us_p50: Number = doc("median")
    latency_us_p99: Number = doc("99th percentile")


class ExportFigures(Latencies):
    """A bundle, and how close ONNX Runtime comes to JAX; latencies are of `session.run` of `policy.onnx`."""

    bundle: Text = doc("path relative to the run")
    student_sha256: Text = doc("fingerprint of the student")
    parity_max_error: Number = doc("largest difference of an action's entry")
    distance_max_error: Number = doc("largest difference of the critic's distance")
    observations: Count = doc("number compared")
    profiles: list[str] | None = doc("other controllers whose files the bundle contains")


class ControlFigures(Score, Latencies):
    """The exported controller in closed loop in another engine; latencies are of its `step`.

    Kept only for the run's own settings and held-out episodes."""

    engine: Text = doc("the simulator")
    steps: Count = doc("number of answers")
    latency_us_max: Number = doc("the longest answer, with robots one after another")
    missed_deadlines: Count = doc("answers later than the control period")
    student_sha256: Text = doc("fingerprint of the student")


class RobotFigures(Latencies):
    """The last `pipeline control --robot`; latencies are from reading to writing."""

    robot: Text = doc("`fr3`, `fr3-sim` (simulated) or `ros2`")
    goals: Count = doc("number of goals, one after another")
    reached: Count = doc("goals within the success radius when their time was over")
    worst_distance_m: Number = doc("largest distance at the end of a goal's time")
    mean_distance_m: Number = doc("mean distance at the end of a goal's time")
    distances_m: list[float] | None = doc("distance at the end, for each goal")
    tool_m: list[float] | None = doc("the tool's point, from the flange, if a tool was given")
    steps: Count = doc("control periods")
    held: Count = doc("periods in which the robot was held because there was no fresh reading")
    missed_deadlines: Count = doc("periods that were over before the command was sent")
    latency_us_max: Number = doc("the longest")
    slowed_by_separation: Count = doc("commands that were slowed down or stopped to keep links apart")
    least_separation_m: Number = doc("least distance between two links; absent if never below 5 cm")
    nearest_links: list[str] | None = doc("which two these were")
    student_sha256: Text = doc("fingerprint of the student")
    limit_violations: Count = doc("states beyond a limit; null for a real robot, which keeps no log")
    violations: dict[str, int] | None = doc("by kind of limit; this and the rest for a simulated robot only")
    states: Count = doc("number of states, one per millisecond")
    late_packets: Count = doc("states in motion without a new command")
    largest_acceleration: Number = doc("rad/s², of commands")


class BaselineFigures(Score, Retained):
    """What the distilled student is compared with, on the teacher's held-out episodes.

    Written by `pipeline distill RUN --baselines NAME,...` (or `all`): `direct` (a residual network with
    LayerNorm of depth 4 and the student's width, actor and encoders, trained with the teacher's settings and
    number of steps), `direct_long` (the same gone on with, at the pace measured until then, for as long as
    `teacher.wall_s`, but never shorter than `direct`, which it brings), `shallow_actor` (that actor beside
    encoders as deep as the teacher's), `cloning` and `dagger`."""

    size: Text = doc("size of the student that it is compared with")
    parameters: Count = doc("number of parameters of its policy; a residual one has more than the student")
    student_parameters: Count = doc("number of parameters of the student's policy")
    env_steps: Count = doc("control steps over all environments")
    labels: Count = doc("labels from the teacher, if any")
    wall_s: Number = doc("seconds of training")
    student_gain: Number = doc("by how much the distilled student's time at goal is higher")
    teacher_sha256: Text = doc("fingerprint of the teacher")
    student_sha256: Text = doc("fingerprint of the student")


class Summary(Figures):
    """Every run directory holds `summary.json`; stages add to it as they finish, and `pipeline run --json`
    prints it.

    A figure that was not computed is absent, never zero. Every mean or share `key` over episodes has its 95 %
    interval beside it as `key_interval: [low, high]` (Wilson for shares, bootstrap for means)."""

    task: Text = doc("the task")
    engine: Text = doc("the simulator of the training")
    seed: Count = doc("the run's seed")
    wall_s: Number = doc("seconds of `pipeline run`, added up over resumptions")
    teacher: TeacherFigures | None = doc("the teacher")
    reference: Score | None = doc(
        "a score of the task's reference policy, a controller that knows the task, on the teacher's held-out "
        "episodes; absent where it states none ([own-task.md](own-task.md#what-is-known-of-the-task))"
    )
    students: dict[str, StudentFigures] = doc("by size", {})
    selected: Text = doc(
        "the smallest student whose retention's lower bound reaches `student.min_retention`, the one that "
        "`student.select` names, or, if none reaches it, the one longest at its goals"
    )
    selected_passes: bool | None = doc("whether its lower bound reaches `student.min_retention`")
    selected_because: Text = doc("the reason in words, and what limits students that keep too little")
    export: dict[str, ExportFigures] = doc("by size", {})
    control: dict[str, ControlFigures] = doc("by size", {})
    robot: dict[str, RobotFigures] = doc("by size", {})
    baselines: dict[str, BaselineFigures] = doc("by name", {})

    @model_validator(mode="after")
    def _selected_is_a_student(self) -> Self:
        if self.selected is not None and self.selected not in self.students:
            raise ValueError(
                f"selected is {self.selected!r}, students are {', '.join(self.students) or 'none'}"
            )
        return self

    @property
    def chosen(self) -> StudentFigures:
        """The selected student; without figures if there is none."""
        return self.students.get(self.selected or "", StudentFigures())

    def is_exported(self, size: str | None, found: Any) -> bool:
        """Tells whether figures are of the student that the bundle of this size holds now."""
        source = self.export.get(size or "", ExportFigures()).student_sha256
        return source is not None and getattr(found, "student_sha256", None) == source

    @property
    def controlled(self) -> str | None:
        """The selected student if its controller was run, or else the first whose was."""
        return self.selected if self.selected in self.control else next(iter(self.control), None)

    @property
    def driven(self) -> str | None:
        """Likewise of those that drove a robot as they are exported now."""
        known = [size for size, found in self.robot.items() if self.is_exported(size, found)]
        return self.selected if self.selected in known else next(iter(known), None)

    @property
    def scored(self) -> dict[str, Score]:
        """Of the teacher, and of the selected student's file and controller, those that have a score."""
        controller = self.control.get(self.selected or "")
        found = {"teacher": self.teacher, "student": self.chosen, "controller": controller}
        return {stage: score for stage, score in found.items() if score and score.success_final is not None}


class Parameters(Figures):
    """Numbers of parameters."""

    actor: int = doc("of the actor")
    critic: int = doc("of both encoders together")


class SweepRun(Summary):
    """One run of a sweep: its own `summary.json`, and how it stands."""

    run: str = doc("its directory within the sweep")
    values: Json = doc("of the varied settings")
    state: str = doc("`finished`, `diverged`, `out of memory`, `unfinished` (stopped) or `not begun`")
    error: Text = doc("why it has no score; only if it diverged or did not fit into memory")
    stage_errors: dict[str, str] | None = doc(
        "why `distill` or `export` failed in this run, by stage; that no student keeps enough is no failure "
        "(`selected_passes`, `selected_because`)"
    )
    iteration: Count = doc("the last one")
    env_steps_per_s: Number = doc("control steps per second, updates included, in the median iteration")
    parameters: Parameters = doc("numbers of parameters")


class Combination(Score):
    """Means over the finished runs of one combination of values.

    `key_interval` is the 95 % interval of the mean over seeds (Student's t, kept within what is possible). It
    is absent for one seed and where all seeds agree exactly: there is no spread to estimate it from."""

    values: Json = doc("of the varied settings")
    seeds: list[int] = doc("of the runs that finished")
    parameters: Parameters = doc("numbers of parameters")
    share_of_reference: Number = doc("of the teacher")
    rank_correlation: Number = doc("of `teacher.maze_distance`")
    rank_correlation_far: Number = doc("likewise")
    wall_s: Number = doc("seconds of training")
    env_steps_per_s: Number = doc("as in `runs`")


class SweepStudents(Figures):
    """Means over the runs of one combination of values in which a student of one size has been evaluated.

    Intervals are over seeds. A mean is absent if one of the runs lacks the figure."""

    values: Json = doc("of the varied settings")
    size: str = doc("of the students")
    seeds: list[int] = doc("of these runs")
    parameters: Count = doc("number of parameters of the policy")
    episodes: Count = doc("episodes in each run")
    time_at_goal: Number = doc("the student's")
    retention: Number = doc("mean of the runs' retentions")
    teacher_time_at_goal: Number = doc("its teacher's in the same episodes")


class SweepSummary(Figures):
    """`summary.json` of a sweep.

    `pipeline teacher` with `--depths`, `--vary` or `--seeds` writes it, and `--json` prints it; so do
    `pipeline distill` and `pipeline export` of a sweep. `sweep.json` beside it holds what was asked for."""

    preset: str = doc("shared by all runs")
    vary: dict[str, list[Any]] = doc("the values of each varied setting, by `group.field`")
    seeds: list[int] = doc("every run's seed")
    wall_s: float = doc("seconds of all runs together")
    runs: list[SweepRun] = doc("one object a run, in the order of training")
    combinations: list[Combination] = doc("one object a combination of values")
    students: list[SweepStudents] = doc("one object a combination of values and a size of student", [])


def problem(error: ValidationError) -> str:
    """Says which figure is wrong first, and why."""
    first = error.errors()[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def document() -> str:
    """Returns the tables of docs/summary.md, in Markdown."""
    models = sorted(MODELS.values(), key=lambda model: model is not Summary)
    return "\n\n".join(map(_table, models)) + "\n"


def _table(model: type[Figures]) -> str:
    rows = [f"| of {_link(base)} | its keys |" for base in model.__bases__ if base is not Figures]
    for name in model.__annotations__:
        field = model.model_fields[name]
        within = re.findall(r"\.([A-Z]\w+)", str(field.annotation))
        links = [_link(MODELS[each]) for each in within if each in MODELS]
        rows.append(f"| `{name}` | {': '.join([field.description or '', *links])} |")
    title = f"## {model.__name__}\n\n{inspect.cleandoc(model.__doc__ or '')}"
    return "\n".join([title, "", "| key | meaning |", "|---|---|", *rows])


def _link(model: type) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


MODELS = {
    name: each
    for name, each in globals().items()
    if isinstance(each, type) and issubclass(each, Figures) and each is not Figures
}

if __name__ == "__main__":
    print(document(), end="")
