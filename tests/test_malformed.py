"""Malformed settings, files and command lines: one short message names the culprit, nothing is begun."""

import io
import shlex
import shutil
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from pipelines import run_sweep, stages, tables
from pipelines.cli import app
from pipelines.config import Config, groups, preset
from pipelines.progress import Display, Terminal
from pipelines.rundir import create_run
from teacher import memory

LONGEST = 1000  # characters of a message: the longest list of known names, and what was found
NUMBERS = [
    f"{name}.{field}"
    for name, group in groups(Config()).items()
    for field, info in type(group).model_fields.items()
    if info.annotation in (int, float) and field != "target_entropy"  # any finite number will do for that
]
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=12).map(lambda word: f"zz{word}")
OUT_OF_RANGE = st.sampled_from(["-1", "-1e9", "NaN", "Infinity", "-Infinity", "true", "[]", "{}", "null", ""])


@st.composite
def bad_assignments(draw):
    """`group.field=value` of --set, and what the message must name."""
    kind, name = draw(st.sampled_from(["value", "word", "field", "group", "form"])), draw(NAMES)
    if kind in ("value", "word"):
        field = draw(st.sampled_from(NUMBERS))
        return f"{field}={draw(OUT_OF_RANGE) if kind == 'value' else name}", field
    if kind == "field":
        return f"{draw(st.sampled_from(list(groups(Config()))))}.{name}=1", name
    if kind == "group":
        return f"{name}.depth=1", name
    return draw(st.sampled_from([name, "", "=", "network.=3", ".depth=4"])), "--set"


# A command, and what its refusal says. Runs and tasks of these names are nowhere.
WRONG = [
    ("run --set network.depth=18", "network.depth", "18", "16 or 20"),
    ("run --set network.architecture=deep", "network.architecture", "'deep'", "'published'"),
    ("run --set network.dept=16", "'dept'", "did you mean 'depth'?"),
    ("run --set netwrk.depth=16", "'netwrk'", "did you mean 'network'?"),
    ("run --set update.discount=1.0", "update.discount", "0.999999"),
    ("run --set update.batch_size=100000", "update.batch_size", "collect.envs * collect.prefill", "25600"),
    ("run --set collect.prefill=2000", "collect.prefill is 2000", "collect.buffer_rows"),
    ("run --set collect.envs=true", "collect.envs: found True"),
    ("run --set student.sizes=2x64,big", "student.sizes", "'big'", "LAYERSxWIDTH"),
    ("run --set student.sizes=2x64,2x64", "student.sizes", "twice"),
    ("run --set student.sizes=", "student.sizes"),
    ("run --set export.observations=10", "export.observations", "1000"),
    ("run --set task.name=fr3_reech", "'fr3_reech'", "did you mean 'fr3_reach'?"),
    ("run --set task.engine=brax", "task.engine", "'brax'", "mjx"),
    ("run --set evaluate.layout=nothing", "evaluate.layout"),
    ("run --set network.width=8 --set network.width=8", "network.width"),
    ("run --task reacher --set task.name=fr3_reach", "task.name"),
    ("run --task nothing.py:Robot", "nothing.py"),
    ("run --student 2x32 --set student.select=2x64", "student.select"),
    ("run --student nothing", "nothing"),
    ("run --preset quikstart", "'quikstart'", "did you mean 'quickstart'?"),
    ("run --preset debug --preset debug", "--preset", "twice"),
    ("run --seed -1", "--seed"),
    ("run --run ''", "run"),
    (f"run --run {300 * 'x'}", "run"),
    ("run --preset debug --seed 3 --resume", "runs/debug-seed3 is no run"),
    ("run --config nothing.toml", "nothing.toml"),
    ("run --processes 2", "--coordinator, --process"),
    ("run --coordinator here --processes 2 --process 2", "--process", "the last is 1"),
    ("run --set network.fused=true", "network.fused", "network.precision bfloat16"),
    ("run --set network.fused=true --set network.precision=bfloat16", "H100"),
    ("run nothing", "nothing"),
    ("run --nothing", "--nothing"),
    ("teach", "teach"),
    # Beyond what a machine with 16 GB can hold or count
    ("run --preset debug --set evaluate.episodes=1000000", "evaluate.episodes = 1,000,000 needs", "GB"),
    ("run --preset debug --set student.envs=1000000", "student.envs = 1,000,000 needs", "GB"),
    ("run --preset debug --set collect.envs=1000000000", "this teacher needs", "GB of memory"),
    ("run --preset debug --set collect.total_steps=1000000000000", "collect.total_steps", "2,147,483,647"),
    # Scores that cannot be waited for
    *((f"teacher --until {until}", "evaluate.until") for until in ("0.32", "time_at_goal=1.1", "wall_s=1")),
    # Sweeps
    ("teacher --depths 4,18", "network.depth", "18", "16 or 20"),
    ("teacher --depths 4,,8", "group.field=value,value"),
    ("teacher --depths 4,8.0,8", "depth 8 is given twice"),
    ("teacher --depths 4 --vary network.depth=8", "network.depth is varied twice"),
    ("teacher --depths 4,8 --set network.depth=8", "network.depth is both set and varied"),
    ("teacher --depths 4,8 --set network.actor_depth=4 --set network.critic_depth=4", "changes nothing"),
    ("teacher --vary student.rounds=3,4", "'student'", "group of the teacher"),
    ("teacher --vary network", "'network'", "group.field=value,value"),
    ("teacher --vary task.name=reacher,nothing", "'nothing'", "reacher"),
    ("teacher --vary update.batch_size=32,99999 --vary collect.envs=16,64", "update.batch_size is 99999"),
    ("teacher --seed 1 --seeds 0,1", "--seed 1 and --seeds 0,1"),
    ("teacher --seeds 0,0", "0 is given twice"),
    ("teacher --seeds 0,-1", "'-1'", "whole numbers"),
    ("teacher --seeds 3000000000", "3000000000", "2147483647"),
    ("teacher --depths 4,8 --resume", "runs/quickstart-depth is no sweep"),
    # Later stages and what only looks
    ("distill", "there is no run yet"),
    *((f"{stage} nothing", "runs/nothing is no run") for stage in ("distill", "export", "evaluate")),
    *((f"{stage} nothing", "runs/nothing is no run") for stage in ("control", "report", "config")),
    ("distill ''", "run"),
    ("control --episodes 1", "--episodes"),
    ("control --episodes 1000000000000000", "--episodes", "1000000"),
    ("watch --episodes 0", "--episodes"),
    ("watch --out film.txt", "film.txt"),
    ("inspect nothing", "nothing"),
    ("tasks nothing", "nothing"),
    ("tasks --envs -3", "--envs"),
    ("presets show nothing", "nothing"),
    ("presets show", "NAME"),
    ("presets show debug --toml --json", "--toml"),
]
BAD_FILES = [
    (b"[network]\ndepth = 18", "network.depth", "18", "16 or 20"),
    (b"[network]\ndepth = true", "network.depth"),
    (b"[netwrk]\ndepth = 16", "'netwrk'", "did you mean 'network'?"),
    (b"network = 16", "network", "16", "[network]"),
    (b"[network]\ndepth = = 4", "line 2", "TOML"),
    (b"[network]\ndepth = 16 # \xff\xfe", "UTF-8"),
    (b'preset = "debg"', "'debg'", "did you mean 'debug'?"),
    (b"preset = 3", "preset", "3"),
]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Checks that a command is refused with these words, compiling and creating nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "host_memory", lambda *root: 16 * 2**30)
    for module, name in ((stages, "create_run"), (run_sweep, "create_sweep")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a run was created"))
    compiled = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    def check(arguments, *words):
        before = sorted(tmp_path.rglob("*"))
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
        assert done.exit_code == 2, (arguments, done.output, done.exception)
        assert isinstance(done.exception, SystemExit)
        assert done.stdout == "" and "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr, (arguments, done.stderr)
        assert len(" ".join(done.stderr.replace("─", "").split())) <= LONGEST, done.stderr
        assert sorted(tmp_path.rglob("*")) == before
        assert not compiled

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield check
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[0])
def test_a_wrong_request_is_refused_and_creates_nothing(refused, wrong):
    command, *words = wrong
    refused(shlex.split(command), *words)


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_malformed_file_is_refused(refused, tmp_path, bad):
    (tmp_path / "mine.toml").write_bytes(bad[0])
    refused(["run", "--config", "mine.toml"], "mine.toml", *bad[1:])


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(bad=bad_assignments(), stage=st.sampled_from([["run"], ["distill", "made"]]))
def test_a_malformed_setting_is_refused_by_the_first_stage_and_by_later_ones(refused, tmp_path, bad, stage):
    if not (tmp_path / "made").exists():
        create_run(tmp_path / "made", preset("debug"), "debug", 0)
    refused([*stage, "--set", bad[0]], bad[1])


# Names and descriptions that are data, whatever stands in them

MARKUP = "arm[v1] [/b] :smile:"
ODD = f"{MARKUP} \x1b[2J\x9b1m"  # and commands to a terminal
TOLD = rf"{MARKUP} \x1b[2J\x9b1m"


def plain(text: str) -> str:
    """The words of a table, without its rules and line breaks."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "│┃|"), " ")).split())


def test_whatever_is_printed_stands_there_as_it_is(capsys):
    display = Display()
    display.say(ODD, "red")
    display.warn(f"{ODD} in {ODD}")
    assert capsys.readouterr().err == f"{TOLD}\n{TOLD} in {TOLD}\n"
    table = Table(ODD, title=ODD, caption=ODD)
    table.add_row(ODD)
    table.add_row(Text(ODD, "dim"))
    Terminal(width=200).print(Group(ODD, table))
    shown = capsys.readouterr().out
    assert plain(shown).count(TOLD) == 6
    assert not set("\x1b\x9b") & set(shown)


def test_figures_of_every_kind_have_a_row():
    figures = {"goals": 3, "reached": None, "worst": [0.25, 1e-7], "passes": True, "robot": "[fr3]"}
    console = Terminal(width=120, record=True, file=io.StringIO())
    console.print(tables.score(figures | {"none": [], "violations": {"position": 0}}))
    rows = [line.split("│")[1:3] for line in console.export_text().splitlines() if "│" in line]
    assert [f"{name.strip()} {value.strip()}" for name, value in rows] == [
        *("goals 3", "reached not known", "worst 0.25, 1e-07", "passes yes", "robot [fr3]"),
        *("none none", "violations.position 0"),
    ]


def test_commands_print_any_name_in_any_encoding(debug_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(debug_run.path, "runs/arm[v1] [b]")
    code = "from teacher.tasks.reacher import Reacher\nclass Arm(Reacher):\n    "
    Path("t[.py").write_text(f'{code}"""{ODD} µ\\u2028²"""\n', "utf-8")
    Path("k[b].onnx").write_bytes(b"\x1b[2J")
    for charset, words, code, *told in (
        ("utf-8", ["inspect", "runs/arm[v1] [b]/export/2x16"], 0, "runs/arm[v1] [b]/export"),
        ("utf-8", ["inspect", "k[b].onnx"], 1, "k[b].onnx: not an ONNX graph"),
        ("ascii", ["config", "arm[v1] [b]"], 0, "run runs/arm[v1] [b]: made"),
        ("ascii", ["tasks", "t[.py:Arm"], 0, TOLD, "t[.py:Arm"),
        ("utf-8", ["tasks", "t[.py:Arms"], 2, "t[.py 'Arms'"),
    ):
        done = CliRunner(charset=charset, env={"COLUMNS": "300"}).invoke(app, words)
        assert done.exit_code == code, (words, done.output, done.exception)
        assert not set("\x1b\x9b\u2028") & set(done.output)
        assert all(text in plain(done.output) for text in told), words
