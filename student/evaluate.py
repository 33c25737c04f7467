"""How much of its teacher a student keeps, on the same held-out episodes, and which student to take."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np

from student.config import StudentConfig
from student.critic import (
    CriticOutputs,
    CriticQueries,
    calibration,
    critic_agreement,
    critic_outputs,
    critic_queries,
    times_to_goal,
)
from student.networks import Student, embed_goal, embed_state_action
from teacher.compilation import jit_once
from teacher.evaluate import (
    EpisodeMetrics,
    evaluation_layout,
    evaluation_noise_key,
    evaluation_starts,
    paired_interval,
    run_episodes,
    summarise,
)
from teacher.policy_file import AnyTeacher, PolicyFile
from teacher.rollout import (
    Policy,
    SensingPolicy,
    Simulation,
    Trajectories,
    all_seeing,
    begin,
    on_robot,
    simulation_of,
)
from teacher.sensing import Sensed
from teacher.tasks import Start

JSON = dict[str, Any]
STATES = 2048  # in which actions are compared, and times to the goal
Assessments = Mapping[str, Mapping[str, Any]]  # by size, as in a summary's `students`
MUCH = 1.5  # times as large an error tells two kinds of states apart
LESS = 0.8  # times the error of the smallest student shows that size matters

# Compiles once for critics of one size.
_student_outputs = jit_once(partial(critic_outputs, embed_state_action, embed_goal))


class SampledStates(NamedTuple):
    """N states of a policy's episodes, evenly over steps and episodes; NumPy arrays."""

    observation: np.ndarray  # [N, S]
    goal: np.ndarray  # [N, G]
    sensed: Sensed  # [N, ...]
    action: np.ndarray  # [N, A]: the policy's

    @classmethod
    def of(cls, trajectories: Trajectories, goal: np.ndarray, count: int) -> Self:
        """Samples L steps of E episodes with goals [E, G]."""
        before, action, _ = trajectories.steps()
        length, episodes = action.shape[:2]
        rows = np.linspace(0, length * episodes - 1, count).round().astype(int)
        goal = np.broadcast_to(goal, (length, *goal.shape))
        values = (before, goal, *trajectories.sensed_steps(), action)
        observation, goal, *sensed, action = (v.reshape(-1, v.shape[-1])[rows] for v in values)
        return cls(observation, goal, Sensed(*sensed), action)


class ReferenceEpisodes(NamedTuple):
    """A teacher's held-out episodes, on which its students are evaluated."""

    teacher: AnyTeacher
    simulation: Simulation
    layout: str
    starts: Start
    outcomes: EpisodeMetrics
    states: SampledStates
    queries: CriticQueries  # as students observe them
    outputs: CriticOutputs | None  # of the teacher's critic, if it has one

    @classmethod
    def of(cls, teacher: AnyTeacher, episodes: int) -> Self:
        """Runs the teacher."""
        simulation, layout = simulation_of(teacher.config.task), evaluation_layout(teacher.config)
        starts = evaluation_starts(simulation, episodes, layout)
        policy = all_seeing(teacher.policy())
        outcomes, trajectories = run_episodes(simulation, policy, starts, evaluation_noise_key())
        states = SampledStates.of(trajectories, starts.goal, STATES)
        of_teacher, of_students = critic_queries(simulation, trajectories, starts.goal)
        outputs = None
        if not isinstance(teacher, PolicyFile):
            critic = jit_once(partial(critic_outputs, teacher.embed_state_action, teacher.embed_goal))
            outputs = critic(teacher.params, of_teacher)
        return cls(teacher, simulation, layout, starts, outcomes, states, of_students, outputs)

    def run(self, policy: SensingPolicy) -> tuple[EpisodeMetrics, Trajectories]:
        """Runs another policy in the same episodes, with the same noise of the sensors."""
        return run_episodes(self.simulation, policy, self.starts, evaluation_noise_key())

    def evaluate(self, policy: Policy, distance: Callable[..., float] | None) -> JSON:
        """Scores a student in the same episodes, and compares it with its teacher.

        Args:
          policy: the student's, which acts on what is sensed.
          distance: its critic's, of one observation, action and goal; None if it has no critic.
        Returns: figures of the summary. `policy_error` is the root mean square difference of an action's
          entries from the teacher's, on states of the teacher's episodes and of the student's own."""
        outcomes, trajectories = self.run(on_robot(policy))
        goal, teachers = self.starts.goal, self.states
        own = SampledStates.of(trajectories, goal, STATES)
        if self.teacher.recurrent:
            follow = begin(self.teacher.policy(), len(goal))
            answer = np.stack([follow(seen, goal) for seen in trajectories.observation[:-1]])
            label = SampledStates.of(trajectories._replace(action=answer), goal, STATES).action
        else:
            label = np.asarray(self.teacher.policy()(own.observation, own.goal))
        calibrated = distance and self._calibration(trajectories, distance)
        compared = {
            "teacher_time_at_goal": float(self.outcomes.time_at_goal.mean()),
            "teacher_parameters": self.teacher.actor_parameters,
            "policy_error": {
                "teacher_states": _rms(policy(*teachers.sensed) - teachers.action),
                "own_states": _rms(own.action - label),
            },
        }
        compared |= retention(outcomes, self.outcomes) | compare_with_teacher(outcomes, self.outcomes)
        return (
            summarise(outcomes, self.layout) | compared | ({"calibration": calibrated} if calibrated else {})
        )

    def _calibration(self, trajectories: Trajectories, distance: Callable[..., float]) -> JSON:
        times = times_to_goal(self.simulation.task.spec, trajectories, self.starts.goal, STATES)
        assert trajectories.sensed is not None
        observation, seen_goal, action = (
            values[times.step, times.episode].astype(np.float32)
            for values in (*trajectories.sensed, trajectories.action)
        )
        distances = np.array([distance(*row) for row in zip(observation, action, seen_goal, strict=True)])
        return calibration(times, distances)

    def critic_agreement(self, student: Student) -> dict[str, float]:
        """Compares the student's critic with the teacher's; empty where there is none."""
        if self.outputs is None:
            return {}
        return critic_agreement(_student_outputs(student, self.queries), self.outputs)


def retention(student: EpisodeMetrics, teacher: EpisodeMetrics) -> JSON:
    """Computes the student's time at goal over the teacher's, on the same starts and goals.

    Returns: `retention` and `retention_interval`, as `paired_ratio`."""
    return paired_ratio("retention", student.time_at_goal, teacher.time_at_goal)


def compare_with_teacher(student: EpisodeMetrics, teacher: EpisodeMetrics) -> JSON:
    """Computes what retention does not tell, on the same starts and goals.

    Returns: `success_retention`, `final_distance_change`, `hardest_decile` and `worst_decile` of the summary.
    The hardest tenth of episodes is about goals that are hard for the teacher, each policy's own worst tenth
    also about goals that only the student has lost."""
    change = np.asarray(student.final_distance) - np.asarray(teacher.final_distance)
    ours, theirs = (np.asarray(each.time_at_goal, float) for each in (student, teacher))
    hardest = np.argsort(theirs, kind="stable")[: _tenth(len(theirs))]
    return paired_ratio("success_retention", student.success_final, teacher.success_final) | {
        "final_distance_change": float(change.mean()),
        "final_distance_change_interval": paired_interval(np.mean, change),
        "hardest_decile": _difference(np.mean, ours[hardest], theirs[hardest]),
        "worst_decile": _difference(_worst_tenth, ours, theirs),
    }


def paired_ratio(key: str, student: np.ndarray, teacher: np.ndarray) -> JSON:
    """Computes the ratio of two sums over paired episodes [E].

    Returns: it as `key`, and its bootstrap interval; nothing if the teacher was at a goal so rarely that the
    ratio has none."""

    def ratio(ours: np.ndarray, theirs: np.ndarray, axis: int) -> np.ndarray:
        total = theirs.sum(axis)
        return np.where(total > 0, ours.sum(axis) / np.where(total > 0, total, 1), np.nan)

    ours, theirs = np.asarray(student, float), np.asarray(teacher, float)
    interval = paired_interval(ratio, ours, theirs) if theirs.sum() else None
    return {key: float(ours.sum() / theirs.sum()), f"{key}_interval": interval} if interval else {}


def _difference(mean: Callable[..., Any], ours: np.ndarray, theirs: np.ndarray) -> JSON:
    def difference(ours: np.ndarray, theirs: np.ndarray, axis: int) -> Any:
        return mean(ours, axis=axis) - mean(theirs, axis=axis)

    student, teacher = (float(mean(each, axis=-1)) for each in (ours, theirs))
    # A single pair has no other draw.
    interval = paired_interval(difference, ours, theirs) if len(ours) > 1 else [student - teacher] * 2
    return {"student": student, "teacher": teacher, "difference_interval": interval}


def _worst_tenth(values: np.ndarray, axis: int) -> np.ndarray:
    """Computes the mean of the lowest tenth along the last axis."""
    assert axis == -1 or axis == values.ndim - 1
    return np.asarray(np.sort(values)[..., : _tenth(values.shape[-1])].mean(-1))


def _tenth(count: int) -> int:
    return -(-count // 10)


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).mean()))


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
