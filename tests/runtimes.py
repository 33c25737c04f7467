"""Programs that run ONNX graphs, each as a function of inputs `obs` [1, N] and `goal` [1, G] to `actions`.

A runtime that is not installed raises ImportError. Precision is float32 where a runtime has to be told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _onnxruntime(path: Path) -> Ask:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs, goal: session.run(["actions"], {"obs": obs, "goal": goal})[0]


def _reference(path: Path) -> Ask:
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(path))
    return lambda obs, goal: session.run(["actions"], {"obs": obs, "goal": goal})[0]


def _openvino(path: Path) -> Ask:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda obs, goal: model({"obs": obs, "goal": goal})["actions"]


def _opencv(path: Path) -> Ask:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))

    def run(obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        network.setInput(obs, "obs")
        network.setInput(goal, "goal")
        return network.forward("actions")

    return run


def _tinygrad(path: Path) -> Ask:
    if shutil.which("clang") is None:
        os.environ.setdefault("DEV", "PYTHON")  # it compiles with clang alone
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    session = OnnxRunner(str(path))
    return lambda obs, goal: session({"obs": Tensor(obs), "goal": Tensor(goal)})["actions"].numpy()


def _mnn(path: Path) -> Ask:
    import MNN

    converted = path.with_suffix(".mnn")
    # Not MNN.tools.mnnconvert: it installs a package with whichever pip it finds, and sends usage reports.
    code = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    arguments = ["-f", "ONNX", "--modelFile", path, "--MNNModel", converted]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    module = MNN.nn.load_module_from_file(str(converted), ["obs", "goal"], ["actions"])

    def run(obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        given = [MNN.expr.placeholder(list(each.shape), MNN.expr.NCHW) for each in (obs, goal)]
        for variable, each in zip(given, (obs, goal), strict=True):
            variable.write(each)
        return np.array(module.onForward(given)[0].read())

    return run


def _tract(path: Path) -> Ask:
    import tract

    session = tract.onnx().load(str(path)).into_model().into_runnable()
    return lambda obs, goal: session.run([obs, goal])[0].to_numpy()


_WEB = """
const ort = require("onnxruntime-web"), fs = require("fs"), [model, size] = process.argv.slice(1);
(async () => {
  const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)));
  const row = Buffer.alloc(4 * size);
  for (;;) {
    let read = 0;
    while (read < row.length) {
      const got = fs.readSync(0, row, read, row.length - read);
      if (!got) process.exit(0);
      read += got;
    }
    const values = new Float32Array(row.buffer.slice(row.byteOffset, row.byteOffset + row.length));
    const split = session.inputMetadata[0].shape[1];
    const tensor = (part) => new ort.Tensor("float32", part, [1, part.length]);
    const given = {obs: tensor(values.slice(0, split)), goal: tensor(values.slice(split))};
    const found = (await session.run(given)).actions.data;
    fs.writeSync(1, Buffer.from(found.buffer, found.byteOffset, 4 * found.length));
  }
})();
"""


def _onnxruntime_web(path: Path) -> Ask:
    """Needs node, which finds onnxruntime-web from here or by NODE_PATH."""
    found = subprocess.run(["node", "-e", "require('onnxruntime-web')"], capture_output=True, check=False)
    if found.returncode:
        raise ImportError("onnxruntime-web")
    processes: list[subprocess.Popen[bytes]] = []

    def run(obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        row = np.concatenate([obs, goal], axis=1).astype(np.float32)
        if not processes:
            command = ["node", "-e", _WEB, str(path), str(row.size)]
            processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            )
        talk = processes[0]
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write(row.tobytes())
        return np.frombuffer(talk.stdout.read(4096), np.float32)

    return run


RUNTIMES = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-web": _onnxruntime_web,
    "reference": _reference,
    "openvino": _openvino,
    "opencv": _opencv,
    "tinygrad": _tinygrad,
    "mnn": _mnn,
    "tract": _tract,
}
