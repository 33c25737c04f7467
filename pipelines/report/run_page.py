"""A run as one page: from its teacher to the robot, and how to make it again."""

import base64
import io
import json
import shlex
from collections.abc import Callable

from PIL import Image

from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE
from pipelines.config import Config, differing, preset, validated
from pipelines.presets import DEFAULT, PRESETS
from pipelines.report import figures, verdict, wording
from pipelines.report.context import JSON, RunContext
from pipelines.report.page import Block, Cell, Film, Folded, Page, Table, Text, beside, cell, note
from student.baselines import NAMES, conclusion
from student.config import NOISE, NOMINAL, OUTSIDE, SHARE
from teacher.config import FAR_CELLS
from teacher.errors import UsageError

BASELINES = {
    "direct": "residual, LayerNorm, depth 4, trained directly with the teacher's steps",
    "direct_long": "the same for the teacher's wall time",
    "shallow_actor": "the same actor, critic as deep as the teacher's, the teacher's steps",
    "cloning": "behaviour cloning of teacher episodes",
    "dagger": "DAgger without relabelled goals",
}
AGREEMENT = {
    "spearman_actions": "rank, actions",
    "spearman_states": "rank, states",
    "best_action": "best action",
    "top1": "nearest goal",
    "gradient_cosine": "gradient",
}
CONDITIONS = {
    NOMINAL: "as in the evaluation",
    "noise": f"noise, {100 * NOISE:g}{wording.NARROW}% of the spread",
    "push": "pushes",
    "goals_beyond": f"goals up to {100 * OUTSIDE:g}{wording.NARROW}% outside",
}
SCORES = ("success_final", "strict_final", "time_at_goal")


def run_page(run: RunContext) -> Page:
    task = run.summary.get("task") or run.settings["config"]["teacher"]["task"]["name"]
    trained = f", trained in {run.summary['engine']}" if "engine" in run.summary else ""
    drawn = figures.robustness(run, [condition_name(name) for name in run.conditions])
    return Page(
        heading=run.name,
        about=f"Task {task}{trained}, seed {run.settings['seed']}",
        title=f"{run.name}: {task}",
        verdict=verdict.of_run(run),
        opening=_funnel(run),
        open_items=verdict.missing(run),
        sections={
            "Learning": beside(figures.learning(run)),
            "Students": [
                *_students(run),
                *beside(figures.retention_and_cost({run.name: run}) + figures.distillation(run)),
            ],
            "Robustness": [*beside(drawn), *_robustness(run)],
            "Critic": [*beside(figures.maze_distances(run)), *_maze_note(run), *_critics(run)],
            "Baselines": _baselines(run),
            "Calibration": _calibration(run),
            "File": [*_parity(run), *beside(figures.parity(run, ACTION_TOLERANCE[0]))],
            "Control": _control(run),
            "Robot": [*_robot(run), *beside(figures.robot(run))],
            "Origin": _origin(run),
        },
    )


def scores(found: JSON, unit: str | None) -> list[Cell | None]:
    """Returns cells of a row: success, strict success, time at goal, final distance."""
    return [*(wording.share(found, key) for key in SCORES), wording.distance(found, "final_distance", unit)]


def _funnel(run: RunContext) -> list[Block]:
    """Returns one row a stage that has finished."""
    size, unit = run.selected, run.unit
    strict = wording.length(run.goal.get("strict_radius"), unit)
    head = ["stage", "what", f"ends within {run.radius}" if run.radius else "success"]
    head += [f"within {strict}" if strict else "strict", "time at goal", "final distance"]
    rows: list[list[Cell | str | None]] = []
    if reference := run.summary.get("reference"):
        known = Cell("knows the task", f"{reference['episodes']} episodes")
        rows.append(["Reference", known, *scores(reference, unit)])
    if teacher := run.teacher:
        shape = f"depth {teacher['depth']}, width {teacher['width']}" if "depth" in teacher else None
        steps, time = wording.count(teacher.get("env_steps")), wording.duration(teacher.get("wall_s"))
        effort = (steps and f"{steps} steps", time, _episodes(teacher))
        rows.append(["Teacher", cell(shape, _listed(*effort)), *scores(teacher, unit)])
    if run.students:
        student, kept = run.chosen, wording.percent(run.chosen.get("retention"))
        parameters = wording.count(student.get("parameters"))
        facts = (parameters and f"{parameters} parameters", kept and f"keeps {kept}", _episodes(student))
        waiting = f"{', '.join(run.students)}, not judged yet"
        rows.append(["Student", Cell(size, _listed(*facts)) if size else waiting, *scores(student, unit)])
    if size in run.exported:
        error = wording.number(run.exported[size].get("parity_max_error"), ".1e")
        speed = cell(wording.latencies(run.exported[size]), error and f"error at most {error}")
        rows.append(["File", speed, *["as above"] * 4])
    if run.controlled:
        found = run.control[run.controlled]
        what = f"{_other(run, run.controlled)}{found['engine']}, {found['episodes']} episodes"
        detail = f"{wording.latencies(found)}; {_late(found)}"
        rows.append(["Control", Cell(what, detail), *scores(found, unit)])
    if run.driven:
        found = run.summary["robot"][run.driven]
        what = f"{_other(run, run.driven)}{found['robot']}, {found['goals']} goals"
        broken = found["limit_violations"]
        limits = "limits kept by the robot" if broken is None else f"{broken:,} states beyond a limit"
        detail = f"{wording.latencies(found)}; {_late(found)}; {limits}"
        score = {
            "success_final": found["reached"] / found["goals"],
            "final_distance": found["mean_distance_m"],
        }
        rows.append(["Robot", Cell(what, detail), *scores(score, unit)])
    caption = f"From the teacher to the robot. In small print: {wording.INTERVALS}"
    return [Table(caption, head, rows)] if rows else []


def _students(run: RunContext) -> list[Block]:
    """Returns every student beside its teacher, in closed loop."""
    if not run.students:
        return []
    head = ["size", "parameters", "retention", "success", "ends further", "worst tenth", "p50", "p99"]
    rows: list[list[Cell | str | None]] = []
    for size, student in run.students.items():
        worst = student.get("worst_decile", {})
        rows.append(
            [
                Cell(size, "selected" if size == run.selected else None),
                wording.count(student.get("parameters")),
                wording.share(student, "retention"),
                wording.share(student, "success_final"),
                wording.distance(student, "final_distance_change", run.unit),
                cell(wording.percent(worst.get("student")), wording.percent(worst.get("teacher"))),
                *(
                    wording.latency(run.exported.get(size, {}).get(f"latency_us_p{rank}"))
                    for rank in (50, 99)
                ),
            ]
        )
    because = run.summary.get("selected_because")
    return [
        Table(f"Students beside their teacher. In small print: {wording.INTERVALS}", head, rows),
        *note(f"Selection: {because.rstrip('.')}." if because else None),
        *note(
            "Retention: time at goal of the exported file over that of the teacher, on the same starts and "
            "goals. Ends further: from the goal than the teacher does. Worst tenth: time at goal in the "
            "tenth of episodes in which it is shortest; in small print, that of the teacher in its own worst "
            "tenth. p50 and p99: latency of the file alone."
        ),
    ]


def _robustness(run: RunContext) -> list[Block]:
    """Returns what the selected student and its teacher bear; the figures behind the plot."""
    if not run.conditions:
        return []
    head = ["condition", "teacher", "student", "retention", "falls further by"]
    rows = [
        [
            condition_name(name),
            *(wording.share(trial, key) for key in ("teacher", "student", "retention")),
            wording.share(trial, "excess_drop") if name != NOMINAL else None,
        ]
        for name, trial in run.conditions.items()
    ]
    text = (
        f"The exported {run.selected} student and its teacher in the same "
        f"{run.chosen['robustness']['episodes']} episodes of each condition. Falls further by: how much more "
        "time at goal the student loses there than its teacher."
    )
    caption = f"The same in figures. In small print: {wording.INTERVALS}"
    return [*note(text), Folded("Figures", [Table(caption, head, rows)])]


def condition_name(name: str) -> str:
    """Returns `2 steps of delay` for `delay_2`."""
    what, _, how = name.partition("_")
    if how in ("less", "more"):
        sign = "\N{MINUS SIGN}" if how == "less" else "+"
        return f"{what} {sign}{100 * SHARE:g}{wording.NARROW}%"
    if what == "delay":
        return f"{how} step{'s' if how != '1' else ''} of delay"
    return CONDITIONS.get(name, name)


def _critics(run: RunContext) -> list[Block]:
    """Returns how alike the critics are; students that share a critic share a row."""
    known = {size: student["critic"] for size, student in run.students.items() if student.get("critic")}
    sharing: dict[tuple, list[str]] = {}
    for size, critic in known.items():
        sharing.setdefault(tuple(sorted(critic.items())), []).append(size)
    rows = []
    for sizes in sharing.values():
        critic = known[sizes[0]]
        all_of_them = len(sizes) == len(known) > 1
        error = wording.number(critic.get("distance_error"), ".3g")
        rows.append(
            [
                "all students" if all_of_them else ", ".join(sizes),
                *(wording.number(critic.get(key), ".3f") for key in AGREEMENT),
                cell(error, wording.percent(critic.get("distance_error_relative"))),
            ]
        )
    text = (
        "Rank: correlation of distances to one goal, over actions in one state and over states. Best "
        "action, nearest goal: how often both choose the same of 32 actions, and of up to 256 goals. "
        "Gradient: cosine of the distance's derivatives with respect to the action. Distance: mean absolute "
        "error; in small print, as a share of the spread of the teacher's distances."
    )
    head = ["critic of", *AGREEMENT.values(), "distance"]
    return [Table("Students' critics beside the teacher's", head, rows, text)] if rows else []


def _maze_note(run: RunContext) -> list[Block]:
    """Returns the figures behind the pictures of a maze."""
    found = run.teacher.get("maze_distance", {})
    if "rank_correlation" not in found:
        return []

    def beside_straight(which: str, name: str) -> str:
        own, straight = (found.get(f"rank_correlation{which}{kind}") for kind in ("", "_straight"))
        return f"{own:.2f}" + ("" if straight is None else f" ({name}{straight:.2f})")

    text = (
        f"In {found['states']:,} states of its held-out episodes, with the action taken there, the teacher's "
        f"critic was asked how far each of {found['cells']} cells is. It orders all pairs with a rank "
        f"correlation of {beside_straight('', 'the straight line: ')} with the cells to walk"
    )
    if "rank_correlation_far" in found:
        text += f", and those at least {FAR_CELLS} cells apart with one of {beside_straight('_far', '')}"
    return note(f"{text}.")


def _baselines(run: RunContext) -> list[Block]:
    """Returns the student of the baselines' size and every baseline, one row each."""
    found = run.summary.get("baselines")
    if not found:
        return []
    size = next(iter(found.values()))["size"]
    # What the student's distillation took, so far as it is known.
    last = run.student_metrics[-1] if run.student_metrics else {}
    took = {key: last[key] for key in ("env_steps", "labels") if key in last}
    policies = {"distilled": took | run.students.get(size, {})}
    policies |= {BASELINES[name]: found[name] for name in NAMES if name in found}
    rows = [
        [
            name,
            *(wording.count(each.get(key)) for key in ("parameters", "env_steps", "labels")),
            wording.duration(each.get("wall_s")),
            *(wording.share(each, key) for key in ("time_at_goal", "success_final", "retention")),
        ]
        for name, each in policies.items()
    ]
    head = ["policy", "parameters", "environment steps", "labels", "training", "time at goal", "success"]
    text = (
        "All in the same held-out episodes as the teacher; parameters are the policy's. The steps and the "
        "time of what learns from the teacher come on top of the teacher's own."
    )
    caption = f"The {size} student and its baselines. In small print: {wording.INTERVALS}"
    sentence = conclusion(found)
    opening: list[Block] = [Text(sentence)] if sentence else []
    return [*opening, Table(caption, [*head, "retention"], rows, text)]


def _calibration(run: RunContext) -> list[Block]:
    """Returns how well what was claimed holds, and what the plots must not be taken for."""
    sentences: list[str] = []
    engines: list[str] = []
    if again := run.run_again:
        first = next(iter(again.values()))[1]
        names: tuple[str, str] = (run.summary.get("engine", "training"), first["engine"])
        engines = [wording.ENGINES.get(name, name) for name in names]
        sentences.append(
            f"Every student's file was judged in {engines[0]}, where its teacher learned, and its controller "
            f"was then run in {engines[1]}: dots that lie apart show what a score loses on the way to "
            "another simulator."
        )
    if found := run.chosen.get("calibration"):
        sentences.append(
            f"The distance of the selected student's critic has no unit. {found['states']:,} states of the "
            f"student's own episodes, in ten groups by that distance, were followed for "
            f"{wording.short_time(found['horizon_s'])}."
        )
        if "rank_correlation" in found and "rank_correlation_straight" in found:
            sentences.append(
                "It orders the times to the goal with a rank correlation of "
                f"{found['rank_correlation']:.2f}, the plain distance to the goal with one of "
                f"{found['rank_correlation_straight']:.2f}."
            )
    return [*beside(figures.calibration(run, engines)), *note(" ".join(sentences))]


def _parity(run: RunContext) -> list[Block]:
    """Returns how near each file comes to JAX, beside what is allowed."""
    (absolute, _), (floor, relative) = ACTION_TOLERANCE, DISTANCE_TOLERANCE
    head = ["size", "observations", "actions: largest error", "distance: largest error"]
    rows = [
        [
            size,
            wording.count(file.get("observations")),
            *(wording.number(file.get(key), ".1e") for key in ("parity_max_error", "distance_max_error")),
        ]
        for size, file in run.exported.items()
    ]
    caption = (
        "ONNX Runtime against JAX, on observations of the students' own episodes. Allowed: "
        f"{absolute:g} for an action's entry, {floor:g} + {relative:g} · d for a distance d"
    )
    return [Table(caption, head, rows)] if rows else []


def _control(run: RunContext) -> list[Block]:
    if run.controlled is None:
        return []
    found, size = run.control[run.controlled], run.controlled
    recorded = len(run.recording["episodes"]) if run.recording else 0
    text = f"The exported {size} controller ran {found['episodes']} held-out episodes in {found['engine']}"
    shown = f"; the first {recorded} are recorded" if recorded else ""
    without = (
        f"No pictures of them: pipeline control {run.name}/export/{size} draws them, where it finds OpenGL."
        if recorded and not run.pictures
        else None
    )
    return [
        Text(f"{text}{shown}."),
        *(films(run.recording, run.pictures) if run.recording else []),
        *note(without),
        *beside(figures.control_distances(run)),
    ]


def films(recording: JSON, pictures: list[bytes]) -> list[Block]:
    """Returns recorded episodes as moving pictures, and how each ended."""
    found = []
    for i, (episode, moving) in enumerate(zip(recording["episodes"], pictures, strict=False), 1):
        last = episode["distance"][-1]
        at_goal = last <= recording["success_radius"]
        how = "ended early" if episode["ended"] else "at the goal" if at_goal else "not at the goal"
        away = wording.length(last, recording["unit"])
        found.append(Film(f"Episode {i}: {how}, {away} away", _data(moving), _data(_last_frame(moving))))
    return beside(found)


def _last_frame(moving: bytes) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(moving)) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        image.convert("RGB").save(stream, "webp", quality=70)
    return stream.getvalue()


def _data(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _robot(run: RunContext) -> list[Block]:
    if run.driven is None:
        return []
    found = run.summary["robot"][run.driven]
    states = f" of {found['states']:,}" if "states" in found else ""
    broken = found["limit_violations"]
    kept = (
        "the robot enforces its limits itself"
        if broken is None
        else f"{broken:,}{states} states, one a millisecond, were beyond a limit"
    )
    return [
        Text(
            f"The exported {run.driven} controller drove {found['robot']} over its own protocol to "
            f"{found['goals']} goals in a row and reached {found['reached']}; the farthest end was "
            f"{wording.length(found['worst_distance_m'], 'm')} away; {kept}."
        )
    ]


def _origin(run: RunContext) -> list[Block]:
    """Returns settings, versions, hashes, and how to make the run again."""
    settings = run.settings
    hashes: list[Block] = [
        Folded(
            f"Bundle {size}",
            [
                Table("SHA-256 of the files", ["file", "SHA-256"], list(bundle.get("files", {}).items())),
                Text(as_json(bundle.get("provenance", {})), "code"),
            ],
        )
        for size, bundle in run.bundles.items()
    ]
    return [
        Text(f"Preset {settings['preset']}, seed {settings['seed']}. To make the run again:"),
        *again(lambda: commands(run)),
        *settings_and_versions("Settings", settings, "the run", run.versions),
        *hashes,
    ]


def again(commands: Callable[[], list[str]]) -> list[Block]:
    """Returns commands, or why there are none."""
    try:
        return [Text("\n".join(commands()), "code")]
    except UsageError as error:
        return note(f"The settings are not of this version of the program: {error}")


def settings_and_versions(title: str, settings: JSON, whose: str, versions: JSON) -> list[Block]:
    table = Table(f"Installed when {whose} began", ["package", "version"], list(versions.items()))
    return [Folded(title, [Text(as_json(settings), "code")]), Folded("Versions", [table])]


def as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def commands(run: RunContext) -> list[str]:
    """Returns shell commands. Raises: UsageError if the settings are not of this version of the program."""
    settings = run.settings
    config = validated(settings["config"], stored=True)
    name = f"{run.name.replace('/', '-')}-again"  # an existing run is never overwritten
    words = ["pipeline", "run", *from_preset(settings["preset"], config)]
    words[4:4] = ["--seed", str(settings["seed"]), "--run", name]
    found = [shlex.join(words)]
    size, asked = run.controlled, config.control
    if size is not None:
        ran = run.control[size]
        # `pipeline run` controls every student, and without an engine in the one that the task chooses.
        if asked.engine not in (None, ran["engine"]) or ran["episodes"] != asked.episodes:
            bundle, episodes = f"runs/{name}/export/{size}", str(ran["episodes"])
            other = ["pipeline", "control", bundle, "--engine", ran["engine"], "--episodes", episodes]
            found.append(shlex.join(other))
    return found


def from_preset(name: str, config: Config) -> list[str]:
    """Returns `--preset` with `--set` for every value that differs from it.

    A preset that exists no longer is spelt out on top of the default one."""
    name = name if name in PRESETS else DEFAULT
    changes = differing(preset(name), config)
    return ["--preset", name, *(word for f, v in changes.items() for word in ("--set", f"{f}={_written(v)}"))]


def _written(value: object) -> str:
    """Returns a value so that `--set` reads it back: JSON, but for strings that are none."""
    if isinstance(value, str) and value.lower() != "none":
        try:
            json.loads(value)
        except json.JSONDecodeError:
            return value
    return json.dumps(value)


def _episodes(found: JSON) -> str | None:
    return f"{found['episodes']} episodes" if "episodes" in found else None


def _late(found: JSON) -> str:
    return f"{found['missed_deadlines']:,} of {found['steps']:,} late"


def _other(run: RunContext, size: str) -> str:
    return f"{size}: " if size != run.selected else ""


def _listed(*facts: str | None) -> str:
    return ", ".join(fact for fact in facts if fact)
