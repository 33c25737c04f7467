import json
import shutil

import pytest
from hub import TOKEN, running

from export.controller import load
from pipelines.hub import parts
from pipelines.rundir import Run
from teacher.train import load_teacher


@pytest.fixture
def hub(monkeypatch):
    with running() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


@pytest.fixture
def bundle(debug_run):
    return next((debug_run.path / "export").glob("*/spec.json")).parent


def test_a_bundle_comes_back_as_it_was_and_runs(pipeline, hub, bundle, tmp_path):
    done = pipeline("push", bundle, "me/arm", cwd=tmp_path)
    assert done.returncode == 0 and "/me/arm/commit/" in done.stdout
    assert hub.private == {"me/arm": True}
    assert pipeline("pull", "me/arm", cwd=tmp_path).stdout.strip() == "arm"
    listed = json.loads((bundle / "spec.json").read_text())["files"]
    for name in ("spec.json", *listed):
        assert (tmp_path / "arm" / name).read_bytes() == (bundle / name).read_bytes()
    assert load(tmp_path / "arm").max_golden_error <= 1e-5
    again = pipeline("pull", "me/arm", cwd=tmp_path)
    assert again.returncode == 2 and "arm exists and is never overwritten" in again.stderr


def test_a_run_comes_back_with_its_teacher_and_its_page(pipeline, hub, debug_run, tmp_path):
    assert pipeline("push", debug_run.path, "me/first", "--public", cwd=tmp_path).returncode == 0
    assert hub.private == {"me/first": False}
    card = hub.files["me/first"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name:") and "pipeline pull me/first" in card
    assert not [name for name in hub.files["me/first"] if name.startswith((".", "watch/"))]
    assert pipeline("pull", "me/first", "--out", "runs/mine", cwd=tmp_path).returncode == 0
    pulled, pushed = Run(tmp_path / "runs/mine"), Run(debug_run.path)
    assert pulled.summary == pushed.summary and not (pulled.path / "README.md").exists()
    assert load_teacher(pulled.checkpoints).source == load_teacher(pushed.checkpoints).source


def test_what_is_hidden_damaged_or_drawn_stays_here(tmp_path):
    (tmp_path / "watch").mkdir()
    for name in ("summary.json", "damaged-summary.json", ".lock", "watch/teacher.gif"):
        (tmp_path / name).touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "summary.json")
    assert parts(tmp_path) == ["summary.json"]


def test_nothing_is_sent_by_a_dry_run(pipeline, hub, bundle, tmp_path):
    done = pipeline("push", bundle, "me/arm", "--dry-run", "--json", cwd=tmp_path)
    assert {"spec.json", "policy.onnx", "controller.py"} <= set(json.loads(done.stdout)["files"])
    assert not hub.files


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [("policy.onnx", b"other", "policy.onnx"), ("spec.json", None, "no bundle (spec.json) and no run")],
)
def test_what_is_not_as_it_was_pushed_does_not_appear(pipeline, hub, bundle, tmp_path, file, content, said):
    pipeline("push", bundle, "me/arm", cwd=tmp_path)
    hub.files["me/arm"][file] = content
    if content is None:
        del hub.files["me/arm"][file]
    done = pipeline("pull", "me/arm", cwd=tmp_path)
    assert done.returncode == 1 and said in done.stderr
    assert not (tmp_path / "arm").exists() and not list(tmp_path.glob(".pulled-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("pull", "me/unknown"), 1, "me/unknown"),
        (("pull", "a/b/c"), 2, "OWNER/NAME"),
        (("push", "nowhere", "me/arm"), 2, "nowhere"),
    ],
)
def test_what_cannot_be_had_is_named(pipeline, hub, tmp_path, arguments, code, said):
    done = pipeline(*arguments, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_without_a_token_nothing_is_sent(pipeline, hub, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = pipeline("push", bundle, "me/arm", cwd=tmp_path)
    assert done.returncode == 1 and "hf auth login" in done.stderr and not hub.files


def test_an_altered_bundle_is_not_pushed(pipeline, hub, bundle, tmp_path):
    altered = shutil.copytree(bundle, tmp_path / "altered")
    (altered / "policy.onnx").write_bytes(b"other")
    done = pipeline("push", altered, "me/arm", cwd=tmp_path)
    assert done.returncode == 1 and not hub.files
