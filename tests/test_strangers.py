"""Bundles from strangers: one named error each, at once, with nothing executed and no memory asked for."""

import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import A, G, N, ran, rewrite
from onnx import TensorProto, helper, numpy_helper

from export import controller
from export.controller import ControllerError, load
from export.graph import content_hash
from pipelines.inspection import description, inspect
from pipelines.progress import Terminal
from teacher.errors import FathomError

MEMORY = 64 << 20  # bytes


def refused(directory, message):
    tracemalloc.start()
    try:
        with pytest.raises(ControllerError, match=message):
            load(directory)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


WIDTHS = (("obs", N), ("goal", G), ("actions", A))


def golden(**changes):
    arrays = {name: np.zeros((4, width), "f4") for name, width in WIDTHS}
    target = io.BytesIO()
    np.savez(target, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return target.getvalue()


def with_obs(text):
    """An array whose header says this, and nothing behind it."""
    target = io.BytesIO(golden(obs=None))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("obs.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    return target.getvalue()


def claiming(*shape):
    return with_obs(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n")


def compressed():
    target = io.BytesIO()
    np.savez_compressed(target, obs=np.zeros((1 << 20, N), "f4"))
    return target.getvalue()


class Pickled:
    def __reduce__(self):
        return os.system, ("touch executed",)


GOLDEN = {
    "a pickle": (golden(obs=np.array([Pickled()], object)), "obs is .*'|O'"),
    "noise": (np.random.default_rng(0).bytes(1000), "not an archive"),
    "cut off": (golden()[:-40], "not an archive"),
    "a missing array": (golden(goal=None), "allowed: obs, goal and actions"),
    "an unknown array": (golden(labels=np.zeros(4, "f4")), "array 'labels'"),
    "no rows": (golden(**{k: np.zeros((0, n), "f4") for k, n in WIDTHS}), "1 to"),
    "rows that differ": (golden(obs=np.zeros((5, N), "f4")), "allowed: obs, goal and actions"),
    "another width": (golden(obs=np.zeros((4, N + 1), "f4")), rf"obs is .*, allowed: float32\[K, {N}\]"),
    "doubles": (golden(obs=np.zeros((4, N))), "obs is .*'<f8'"),
    "by column": (golden(obs=np.asfortranarray(np.zeros((4, N), "f4"))), "obs is .*'fortran_order': True"),
    "a shape of gigabytes": (claiming(10**8, N), "obs is .* in [0-9]+ bytes"),
    "a shape of terabytes": (claiming(1 << 40, N), r"obs is .*1099511627776"),
    "compressed zeros": (compressed(), "array 'obs', .*not compressed"),
    "a header without end": (with_obs("(" * 60000), "golden.npz: "),
    "answers of NaN": (golden(actions=np.full((4, A), np.nan, "f4")), "is not reproduced"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_recorded_answers_of_a_stranger(copy, case):
    content, message = GOLDEN[case]
    (copy / "golden.npz").write_bytes(content)
    rewrite(copy, rehash=["golden.npz"])
    refused(copy, message)
    assert not Path("executed").exists()


def listing(name):
    return lambda record: record["files"].update({name: "0"})


def inputs(**changes):
    return lambda record: record["task"]["inputs"].update(changes)


NO_DESCRIPTION, ANOTHER = "not a description of a bundle", "another task specification"
SPECIFICATIONS = {
    "another format": (
        lambda record: record.update(format_version=2),
        "format 2, .*reads format 3; .*--resume",
    ),
    "no task": (lambda record: record.pop("task"), NO_DESCRIPTION),
    "another scale": (lambda record: record["task"]["action"].update(scale=[2.0] * A), ANOTHER),
    "a list": (lambda record: record.update(files=[*controller.NEEDED_FILES]), NO_DESCRIPTION),
    "no joints": (lambda record: record["task"]["action"].update(joints=[]), r"of \(17, 3, 0\) entries"),
    "endless history": (inputs(history=10**12), "history is 1000000000000, of readings of 17 entries in 17"),
    "history of text": (inputs(history="x" * 10**5), r"inputs\.history is 'xxx"),
    "an endless observation": (
        lambda record: record["task"]["inputs"]["observation"][0].update(entries="x" * 10**6),
        r"of \(10000.*, 3, 7\) entries",
    ),
    "inputs of another order": (lambda record: record["task"]["inputs"]["observation"].reverse(), ANOTHER),
    "no inputs": (lambda record: record["task"].pop("inputs"), NO_DESCRIPTION),
    "another last action": (inputs(last_action=[0, 7]), ANOTHER),
    "not a number": (lambda record: record["task"].update(control_dt=float("nan")), "a number such as NaN"),
    "too large a number": (lambda record: record["task"].update(version=10**4000), "a number such as 1000"),
    "surrogate": (listing("\ud800"), "spec.json: "),
    "a long name": (listing("x" * 5000), "cannot be read"),
    "no controller": (lambda record: record["files"].pop("controller.py"), r"no SHA-256 of controller\.py"),
    **{
        f"listing {name!r}": (listing(name), "lists the file")
        for name in ("../outside", "/etc/hostname", "..\\outside", "C:outside", "a\0b", ".")
    },
}


@pytest.mark.parametrize("case", SPECIFICATIONS)
def test_specifications_of_a_stranger(copy, case):
    change, message = SPECIFICATIONS[case]
    rewrite(copy, change)
    refused(copy, message)


def test_a_specification_nested_a_hundred_thousand_deep(copy):
    text = (copy / "spec.json").read_text()
    deep = "[" * 100_000 + "]" * 100_000
    for content in (deep, '{"sha256": "' + "0" * 64 + f'", "task": {deep}' + text[text.index(",") :]):
        (copy / "spec.json").write_text(content)
        refused(copy, r"^spec\.json: ")
    (copy / "spec.json").write_text(text)
    change = altered(copy, lambda model: set_metadata(model, "fathom.spec", deep))
    refused(change, r"policy\.onnx: the specification inside is no JSON")


@pytest.mark.parametrize("name", ["spec.json", "golden.npz", "test_data_set_0/input_0.pb", "test_data_set_0"])
def test_only_plain_files_are_read(copy, tmp_path, name):
    path, elsewhere, within = copy / name, tmp_path / "elsewhere", "/input_0.pb" * name.endswith("_0")
    path.rename(elsewhere)
    for target in ("/dev/zero", "/dev/stdin", elsewhere):
        path.symlink_to(target)
        refused(copy, rf"{name}{within}: not a plain file")
        path.unlink()
    os.mkfifo(path)
    refused(copy, rf"{name}{within}: not a plain file")
    path.unlink()
    if not within:
        path.mkdir()
        refused(copy, rf"{name}: not a plain file")
        path.rmdir()
        elsewhere.rename(path)
        os.truncate(path, 1 << 40)
        refused(copy, rf"{name}: larger than")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("better than it is"), "SHA-256"),
        (lambda path: None, "cannot be read"),
        (os.mkfifo, "not a plain file"),
    ],
)
def test_a_model_card_that_is_another_is_a_warning_at_once(copy, make, message):
    (copy / "README.md").unlink()
    make(copy / "README.md")
    with pytest.warns(UserWarning, match=rf"README\.md: {message}"):
        load(copy)


def set_metadata(model, key, value):
    properties = {each.key: each.value for each in model.metadata_props} | {key: value}
    helper.set_model_props(model, properties)


def altered(directory, change, file="policy.onnx"):
    model = onnx.load(directory / file)
    change(model)
    (directory / file).write_bytes(model.SerializeToString(deterministic=True))
    rewrite(directory, rehash=[file])
    return directory


node = helper.make_node


def before(*nodes, **weights):
    """A graph with these nodes before all others, and these weights."""

    def change(model):
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])
        model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in weights.items())

    return change


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def claimed(model):
    model.graph.initializer[0].dims[0] = 1 << 40


def function(model):
    own = helper.make_function("own", "f", ["x"], ["y"], [node("Identity", ["x"], ["y"])], model.opset_import)
    model.functions.append(own)


VALUE = helper.make_tensor_value_info
BODY = helper.make_graph(
    [node("Identity", ["on"], ["still"])],
    "body",
    [VALUE("i", TensorProto.INT64, []), VALUE("on", TensorProto.BOOL, [])],
    [VALUE("still", TensorProto.BOOL, [])],
)
YES, ROW = np.array(True), np.zeros((1, 10**5), np.float32)
DOUBLED = [node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=1) for i in range(40)]
FLATTERY = '{"success": 1}'
HUGE, ALTERED, NO_EXPORT = "more memory", "it was altered", "not a graph as exports are"
GRAPHS = {
    "a loop": (before(node("Loop", ["", "yes"], [], body=BODY), yes=YES), "holds graphs|operator Loop"),
    "a branch": (before(node("If", ["yes"], []), yes=YES), "operator If, allowed: Abs"),
    "another domain": (before(node("Add", ["obs"], ["z"], domain="evil")), r"operator evil\.Add"),
    "random numbers": (before(node("RandomNormal", [], ["z"], shape=[1])), "RandomNormal"),
    "a tensor": (before(node("Relu", ["obs"], ["z"], value=numpy_helper.from_array(ROW))), "holds a tensor"),
    "functions": (function, "holds functions"),
    "weights elsewhere": (external, "lie in another file"),
    "weights that are not there": (claimed, "hold [0-9]+ bytes"),
    "doubling": (before(node("Identity", ["obs"], ["d0"]), *DOUBLED), HUGE),
    "a sum": (before(node("Add", ["column", "row"], ["huge"]), column=ROW.T, row=ROW), HUGE),
    "a product of a row and a column": (
        before(
            node("Concat", ["row"] * 9, ["long"], axis=1),
            node("Transpose", ["long"], ["high"], perm=[1, 0]),
            node("MatMul", ["high", "long"], ["huge"]),
            row=ROW[:, : 10**4],
        ),
        HUGE,
    ),
    "expansion": (before(node("Expand", ["obs", "shape"], ["z"]), shape=np.array([10**9, N])), HUGE),
    "computed expansion": (
        before(
            node("Mul", ["shape", "shape"], ["squared"]),
            node("Expand", ["obs", "squared"], ["huge"]),
            shape=np.array([10**5, 1]),
        ),
        NO_EXPORT,
    ),
    "gathering": (
        before(
            node("Gather", ["column", "rows"], ["huge"], axis=1),
            **{"column": ROW.T[:1000], "rows": np.zeros(20_000, np.int64)},
        ),
        HUGE,
    ),
    # Of values whose number of dimensions is easily taken for another.
    "a sum that drops an axis": (
        before(
            node("ReduceMax", ["pairs"], ["flat"], axes=[1], keepdims=0),
            node("Add", ["flat", "column"], ["square"]),
            node("Add", ["square", "block"], ["huge"]),
            **{"pairs": ROW.reshape(-1, 2)[:2000], "column": ROW.T[:2000]},
            block=ROW[:, :500].reshape(-1, 1, 1),
        ),
        HUGE,
    ),
    "products side by side": (
        before(
            node("MatMul", ["column", "blocks"], ["huge"]),
            **{"column": ROW.T[:4000], "blocks": ROW.reshape(-1, 1, 10)},
        ),
        HUGE,
    ),
    "another shape of one that is computed": (
        before(
            node("Mul", ["shape", "shape"], ["squared"]),
            node("Reshape", ["row", "squared"], ["block"]),
            **{"row": ROW[:, :1024], "shape": np.array([32, 1, 1])},
        ),
        NO_EXPORT,
    ),
    "another graph's content hash": (before(node("Identity", ["obs"], ["z"])), ALTERED),
    "a flattering description": (lambda model: set_metadata(model, "fathom.judged", FLATTERY), ALTERED),
    "no content hash": (lambda model: set_metadata(model, "fathom.content_hash", ""), ALTERED),
}


@pytest.mark.parametrize(
    ("case", "file"), [*((case, "policy.onnx") for case in GRAPHS), ("a loop", "critic.onnx")]
)
def test_graphs_of_a_stranger(copy, case, file):
    change, message = GRAPHS[case]
    refused(altered(copy, change, file), rf"{file}: .*({message})")


def test_what_readers_of_protobuf_read_differently_is_refused(copy):
    """A second graph, which others would add to the first; integers packed, which a reader may overlook."""
    looping = onnx.ModelProto()
    looping.graph.node.append(node("Loop", ["", "yes"], []))
    content = (copy / "policy.onnx").read_bytes() + looping.SerializeToString()
    (copy / "policy.onnx").write_bytes(content)
    rewrite(copy, rehash=["policy.onnx"])
    refused(copy, r"policy\.onnx: not a graph as exports are: field 7 twice")


def test_packed_integers_are_read():
    assert controller._integers([3, memoryview(b"\x01\x96\x01"), (1 << 64) - 2]) == [3, 1, 150, -2]


# A weight whose name is the number 2^40: bytes of that many would be asked for.
NUMBER_FOR_NAME = b"\x3a\x09\x2a\x07\x40" + b"\x80" * 5 + b"\x20"


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a" + b"\x80" * 50, NUMBER_FOR_NAME]
)
def test_a_file_that_is_no_graph(copy, content):
    (copy / "policy.onnx").write_bytes(content)
    rewrite(copy, rehash=["policy.onnx"])
    refused(copy, r"policy\.onnx: not a graph as exports are")


def test_the_controller_hashes_graphs_as_the_export_does(bundle):
    for path in bundle.glob("*.onnx"):
        model = onnx.load(path)
        shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
        for content in (path.read_bytes(), model.SerializeToString()):
            assert controller.read_graph(path.name, content, shapes)[1] == content_hash(model)


@pytest.mark.parametrize("name", ["numpy.py", "hashlib.py", "numpy/__init__.py", "json.so"])
def test_planted_code_is_refused_before_anything_is_imported(copy, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("open('executed', 'w')")
    name = name.partition("/")[0]
    refused(copy, f"^{name}: code that spec.json does not list")
    for command in (["controller.py"], ["-c", "import controller"], ["-m", "controller"]):
        done = ran(sys.executable, *command, cwd=copy, code=1)
        assert f"{name}: code that spec.json does not list" in done.stderr
        assert not (copy / "executed").exists()


def test_a_program_of_ones_own_may_lie_in_the_bundle(copy):
    (copy / "mine.py").write_text("from controller import load\nprint(load('.').spec['name'])")
    assert ran(sys.executable, "mine.py", cwd=copy).stdout == "fr3_reach\n"


def test_escape_sequences_do_not_reach_the_terminal(copy, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"

    def change(record):
        record["provenance"]["teacher"] = evil
        record["files"][evil] = "0"

    rewrite(copy, change)
    assert controller.main([str(copy)]) == 1
    printed = capsys.readouterr().err
    assert "\\x1b]0;owned" in printed
    assert not set("\x1b\x07\x9b\u202e") & set(printed)
    with pytest.raises(FathomError) as refusal:
        inspect(copy)
    assert not set("\x1b\x07\x9b\u202e") & set(str(refusal.value))
    ends = [VALUE("x", TensorProto.FLOAT, ["\x1b[2J", 4])], [VALUE(evil, TensorProto.FLOAT, ["batch", 4])]
    graph = helper.make_graph([node("Tanh", ["x"], [evil])], "other", *ends)
    model = helper.make_model(graph)
    set_metadata(model, evil, evil)
    onnx.save(model, copy / "other.onnx")
    console = Terminal(width=200, file=io.StringIO(), force_terminal=False)
    console.print(description(inspect(copy / "other.onnx")))
    assert not set("\x1b\x07\x9b\u202e") & set(console.file.getvalue())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_inspect_reads_plain_files_only(tmp_path, make):
    make(tmp_path / "policy.onnx")
    with pytest.raises(FathomError, match=r"policy\.onnx: not a plain file"):
        inspect(tmp_path / "policy.onnx")
