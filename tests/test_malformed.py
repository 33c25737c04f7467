"""Malformed settings, files and command lines: one short message names the culprit, nothing is begun."""

import io
import json
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

from pipelines import tables
from pipelines.cli import app
from pipelines.config import Config, groups, preset
from pipelines.progress import Display, Terminal
from pipelines.rundir import create_run

EXAMPLES = 100  # of each of the four kinds below
LONGEST = 1000  # characters of a message: the longest list of known names, and what was found
FIELDS = {
    f"{name}.{field}": info.annotation
    for name, group in groups(Config()).items()
    for field, info in type(group).model_fields.items()
}
NUMBERS = [name for name, kind in FIELDS.items() if kind in (int, float)]
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=1, max_size=12)
NAMES = WORDS.map(lambda word: f"zz{word}")  # no name of anything
TEXTS = st.text(st.characters(exclude_categories=("C",)), max_size=40)
OUT_OF_RANGE = st.sampled_from(
    ["-1", "-1e9", "NaN", "Infinity", "-Infinity", "1e999", "true", "[]", "{}", "null", ""]
)
CHECKED = st.sampled_from([name for name in NUMBERS if name != "update.target_entropy"])  # any number will do
FIRST = st.sampled_from(["run", "teacher"])


@st.composite
def bad_assignments(draw):
    """`group.field=value` of --set, and what the message must name."""
    name, number, checked = draw(NAMES), draw(st.sampled_from(NUMBERS)), draw(CHECKED)
    group = draw(st.sampled_from(list(groups(Config()))))
    form = draw(st.sampled_from([name, "", "=", "network.=3", ".depth=4"]))
    value = (f"{checked}={draw(OUT_OF_RANGE)}", checked)
    others = [(f"{number}={name}", number), (f"{group}.{name}=1", name), (f"{name}.depth=1", name)]
    return draw(st.sampled_from([value, *others, (form, "--set")]))


@st.composite
def bad_files(draw):
    """A settings file's bytes, and what the message must name beside the file."""
    field, unknown = draw(CHECKED), draw(NAMES)
    group, _, name = field.partition(".")
    value = draw(st.sampled_from(["-1", "nan", "inf", "-inf", '"many"', "[]", "{}", "1979-05-27", "true"]))
    syntax = draw(st.sampled_from(["[network", "depth = ", "= 3", "[network]\ndepth = 4\ndepth = 8"]))
    text, named = draw(
        st.sampled_from(
            [
                (f"[{group}]\n{name} = {value}\n", field),
                (f"[{unknown}]\ndepth = 4", unknown),
                (f"[{group}]\n{unknown} = 4", unknown),
                (f"{group} = {json.dumps(unknown)}", group),
                (f"preset = {json.dumps(unknown)}", unknown),
                (syntax, "TOML"),
                ("[network]\ndepth = 16 # \xff\xfe", "UTF-8"),
            ]
        )
    )
    return text.encode("latin-1"), named


@st.composite
def bad_options(draw):
    """Arguments, and what the message must name."""
    name, number = draw(NAMES), draw(st.integers(-(10**9), -1))
    first = draw(FIRST)
    later = draw(st.sampled_from(["distill", "export", "evaluate", "report", "config"]))
    return draw(
        st.sampled_from(
            [
                ([name], name),
                ([first, f"--{name}"], f"--{name}"),
                ([first, name], name),
                ([first, "--preset", name], name),
                ([first, "--preset", ""], "preset"),
                ([first, "--task", name], name),
                ([first, "--task", ""], "task"),
                ([first, "--task", f"{name}.py:Robot"], name),
                ([first, "--set", f"task.engine={name}"], "task.engine"),
                ([first, "--set", f"evaluate.layout={name}"], "evaluate.layout"),
                ([first, "--set", f"export.profiles={name}"], name),
                ([first, "--set", f"student.sizes={name}"], "student.sizes"),
                ([first, "--set", "student.sizes="], "student.sizes"),
                ([first, "--set", f"student.goals={number}"], "student.goals"),
                ([first, "--set", "network.width=8", "--set", "network.width=8"], "network.width"),
                ([first, "--task", "reacher", "--set", "task.name=fr3_reach"], "task.name"),
                ([first, "--seed", str(number)], "--seed"),
                ([first, "--seed", name], "--seed"),
                ([first, "--seed", "1", "--seed", "2"], "--seed"),
                ([first, "--preset", "debug", "--preset", "debug"], "--preset"),
                ([first, "--run", ""], "run"),
                ([first, "--run", "x" * 300], "run"),
                ([first, "--run", name, "--resume"], name),
                ([first, "--config", f"{name}.toml"], f"{name}.toml"),
                ([first, "--config", "."], "--config"),
                ([first, "--processes", "2"], "--coordinator"),
                ([first, "--process", str(number)], "--process"),
                ([first, "--coordinator", name, "--processes", "2", "--process", "2"], "--process"),
                (["run", "--student", name], name),
                (["run", "--student", "2x32", "--set", "student.choose=2x64"], "student.choose"),
                (["teacher", "--depths", name], "network.depth"),
                (["teacher", "--depths", "4,4"], "network.depth"),
                (["teacher", "--depths", ""], "network.depth"),
                (["teacher", "--vary", name], "--vary"),
                (["teacher", "--seeds", f"1,{name}"], "--seeds"),
                (["teacher", "--seeds", "1,1"], "--seeds"),
                (["teacher", "--seed", "1", "--seeds", "2"], "--seeds"),
                ([later, name], name),
                ([later, ""], "run"),
                (["distill", name, "--run", f"{name}x"], "--run"),
                (["control", name], name),
                (["control", "--episodes", "1"], "--episodes"),
                (["watch", "--episodes", "0"], "--episodes"),
                (["watch", "--out", f"{name}.txt"], f"{name}.txt"),
                (["inspect", name], name),
                (["tasks", name], name),
                (["tasks", "--envs", str(number)], "--envs"),
                (["presets", name], name),
                (["presets", "show", name], name),
                (["presets", "show"], "NAME"),
                (["presets", "show", "debug", "--toml", "--json"], "--toml"),
                (["config", name, "--schema"], "RUN"),
            ]
        )
    )


@pytest.fixture
def compiled():
    """What JAX has compiled since the test began."""
    found = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def assert_refused(arguments, named, folder):
    before = sorted(folder.rglob("*"))
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 2, (arguments, done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    assert named in done.stderr, (arguments, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(" ".join(done.stderr.replace("─", "").split())) <= LONGEST, done.stderr
    assert sorted(folder.rglob("*")) == before


quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(first=FIRST, bad=bad_assignments())
def test_a_malformed_setting_is_refused(tmp_path, monkeypatch, compiled, first, bad):
    monkeypatch.chdir(tmp_path)
    assert_refused([first, "--set", bad[0]], bad[1], tmp_path)
    assert not compiled


@quick
@given(first=FIRST, bad=bad_files())
def test_a_malformed_file_is_refused(tmp_path, monkeypatch, compiled, first, bad):
    monkeypatch.chdir(tmp_path)
    content, named = bad
    (tmp_path / "mine.toml").write_bytes(content)
    assert_refused([first, "--config", "mine.toml"], named, tmp_path)
    assert_refused([first, "--config", "mine.toml"], "mine.toml", tmp_path)
    assert not compiled


@quick
@given(bad=bad_options())
def test_a_malformed_command_line_is_refused(tmp_path, monkeypatch, compiled, bad):
    monkeypatch.chdir(tmp_path)
    compiled.clear()
    assert_refused(*bad, tmp_path)
    assert not compiled


@quick
@given(bad=bad_assignments())
def test_a_malformed_setting_of_a_later_stage_is_refused(tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    if not (tmp_path / "run").exists():
        create_run(tmp_path / "run", preset("debug"), "debug", 0)
    assert_refused(["distill", str(tmp_path / "run"), "--set", bad[0]], bad[1], tmp_path)


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
    figures = {
        "goals": 3,
        "reached": None,
        "worst": [0.25, 1e-7],
        "passes": True,
        "robot": "[fr3]",
        "none": [],
    }
    console = Terminal(width=120, record=True, file=io.StringIO())
    console.print(tables.score(figures | {"violations": {"position": 0}}))
    rows = [line.split("│")[1:3] for line in console.export_text().splitlines() if "│" in line]
    found = {name.strip(): value.strip() for name, value in rows}
    shown = ["3", "not known", "0.25, 1e-07", "yes", "[fr3]", "none", "0"]
    assert found == dict(zip([*figures, "violations.position"], shown, strict=True))


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
def test_commands_print_any_name_in_any_encoding(debug_run, tmp_path, monkeypatch, charset):
    monkeypatch.chdir(tmp_path)
    names = ["runs/arm[v1]", "d[/b]"]
    for name in names:
        shutil.copytree(debug_run.path, name)
    code = "from teacher.tasks.reacher import Reacher\nclass Arm(Reacher):\n    "
    Path("t[.py").write_text(f'{code}"""{ODD} µ\\u2028²"""\n', "utf-8")
    Path("k[b].onnx").write_bytes(b"\x1b[2J")
    runner = CliRunner(charset=charset, env={"COLUMNS": "300"})
    for words, code, *told in (
        (["compare", *names, "--out", "c.html"], 0, "arm[v1]", "b]"),
        (["config", names[1]], 0, "run d[/b]: made"),
        (["inspect", f"{names[0]}/export/2x16"], 0, "runs/arm[v1]/export"),
        (["inspect", "k[b].onnx"], 1, "k[b].onnx: not an ONNX graph"),
        (["export", "arm[v1]", "--resume"], 0, "kept runs/arm[v1]/export/2x16"),
        (["report", names[1]], 0, "d[/b]/report.html"),
        (["tasks", "t[.py:Arm"], 0, TOLD, "t[.py:Arm"),
        (["tasks", "t[.py:Arms"], 2, "t[.py 'Arms'"),
    ):
        done = runner.invoke(app, words)
        assert done.exit_code == code, (words, done.output, done.exception)
        assert not set("\x1b\x9b\u2028") & set(done.output)
        for text in told:
            assert text in plain(done.output), words
