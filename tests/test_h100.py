"""What a GPU user runs is compiled for an H100 on a machine that has none: XLA needs its description alone.

Needs the CUDA wheels, takes an hour on two cores, and prints a line a program: kernels, memory, seconds.

    pip install -e ".[test]" "jax[cuda12]" && pytest tests/test_h100.py -s -m slow
"""

import importlib.util
import json
import math
import os
import re
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver

import jax
import jax.numpy as jnp
import layer_kernels
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pipelines.config import preset, with_values
from pipelines.presets import PRESETS
from student.distill import Distiller
from student.labels import VisitedStates
from teacher import memory, networks
from teacher.learner import Learner
from teacher.networks import init_params
from teacher.replay import Batch
from teacher.rollout import simulation_of
from teacher.sharding import AXIS, Devices
from teacher.train import Teacher

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
        reason="needs the CUDA wheels: pip install 'jax[cuda12]'",
    ),
]

H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
KIND = "NVIDIA H100 80GB HBM3"
MEMORY = 80e9  # bytes
WHOLE = P()
LAUNCHED = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*? (fusion|custom-call|dot|copy|reduce|sort)\(")
COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute)(?:-start)?\(")


@pytest.fixture(scope="module", autouse=True)
def as_on_a_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "is_batched", lambda: True)
        yield


def h100s(count):
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=H100, topology=f"1x1x{count}"
    ).devices


def compiled(function, *arguments, devices=None, specs=WHOLE):
    """Compiles a function of arrays or shapes; says what its program launches, sends and reserves."""
    mesh = Devices(devices or h100s(1))._mesh
    shapes = jax.tree.map(
        lambda spec, part: jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
            part,
        ),
        specs,
        arguments,
        is_leaf=lambda node: isinstance(node, P),
    )
    begun = time.perf_counter()
    program = jax.jit(function, donate_argnums=0).lower(*shapes).compile()
    taken, account = time.perf_counter() - begun, program.memory_analysis()
    kernels, sent = launches(program.as_text())
    return {
        "kernels": kernels,
        "GB": round((account.argument_size_in_bytes + account.temp_size_in_bytes) / 1e9, 3),
        "compile_s": round(taken, 1),
        **({"sent_MB": {name: round(size / 1e6, 3) for name, size in sent.items()}} if sent else {}),
    }


def launches(text):
    """Counts the kernels that a program launches, and bytes by collective; loops as often as they run."""
    within, kernels, sent = "", Counter(), Counter()
    loops = dict(re.findall(r"while\(.*?body=%?([\w.\-]+).*?\"known_trip_count\":\{\"n\":\"(\d+)\"\}", text))
    inside = {}
    for line in text.splitlines():
        if (header := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(", line)) and line.rstrip().endswith("{"):
            within = header[1]
        if body := re.search(r"while\(.*?body=%?([\w.\-]+)", line):
            inside[body[1]] = within
        kernels[within] += bool(LAUNCHED.match(line))
        if found := COLLECTIVE.search(line):
            sizes = re.findall(r"(?:f|s|u)(\d+)\[([\d,]*)\]", found[1])
            sent[within, found[2]] += sum(
                int(bits) // 8 * math.prod(map(int, filter(None, shape.split(",")))) for bits, shape in sizes
            )
    entry = re.search(r"ENTRY %?([\w.\-]+)", text)[1]

    def times(name):
        return 1 if name == entry else int(loops.get(name, 1)) * times(inside[name])

    run = {entry, *inside}
    total = sum(count * times(name) for name, count in kernels.items() if name in run)
    by_kind = Counter()
    for (name, kind), size in sent.items():
        by_kind[kind] += size * times(name) if name in run else size
    return total, by_kind


def show(**row):
    print(json.dumps(row), flush=True)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize("name", PRESETS)
def test_every_program_of_a_preset_compiles(name):
    config = preset(name)
    learner = Learner(config.teacher)
    state = jax.eval_shape(learner._init, jax.random.key(0))
    for function in (learner.collect, learner.update_many, learner.restart):
        show(preset=name, program=function.__name__, **compiled(function, state))

    spec, where = learner.spec, simulation_of(config.teacher.task)
    batch = where._batch(config.teacher.evaluate.episodes)
    starts = jax.eval_shape(partial(where.draw, numbers=np.arange(batch)), jax.random.key(0))
    keys = () if spec.deployed is None else jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    running, senses, frame = jax.eval_shape(where._first, starts, keys)
    show(preset=name, program="evaluate: begin", **compiled(where._first, starts, keys))
    action, active = shape(batch, spec.action_size), jax.ShapeDtypeStruct((batch,), bool)
    found = compiled(where._next, running, senses, action, active)
    show(preset=name, program="evaluate: step", **found)
    teacher = Teacher(config.teacher, spec, learner.networks, state.params, 0, None, "")
    found = compiled(teacher.act, state.params, frame.observation, starts.goal)
    show(preset=name, program="evaluate: act", **found)

    distiller = Distiller(config.student, teacher)
    distilled, envs = jax.eval_shape(distiller._init, jax.random.key(0)), config.student.envs
    (seen, acted, asked), sensed = spec.sizes, spec.sensed_sizes[0]
    positions = frame.qpos.shape[1]
    steps = [shape(spec.episode_length, envs, size) for size in (seen, acted, seen, positions, sensed)]
    visited = VisitedStates(*steps, jax.ShapeDtypeStruct((envs,), jnp.int32), shape(envs, asked))
    show(preset=name, program="label", **compiled(distiller.label, distilled, state.params, visited))
    show(preset=name, program="distill", **compiled(distiller.update_many, distilled))


def update(depth, *, devices=1, **network):
    """Compiles one update of humanoids' size, width 256 and batch 512; its arguments are not copied."""
    values = {"depth": depth, "width": 256, "precision": "tensorfloat32"} | network
    asked = [f"network.{key}={value}" for key, value in values.items()]
    config = with_values(preset("humanoid"), [*asked, "network.architecture=scaled"]).teacher
    cards = h100s(devices)
    learner = Learner(config, Devices(cards))
    sizes = learner.spec.sizes
    params = jax.eval_shape(lambda key: init_params(learner.networks, key, sizes), jax.random.key(0))
    moments = jax.eval_shape(learner.optimiser.init, params)
    division = learner.division
    rows = Batch(*(shape(config.update.batch_size, size) for size in sizes))
    takes = ((division.params, division.optimiser), P(AXIS), P())
    function = learner.devices.spread(learner.update, takes, (takes[0], P()))
    specs = takes if devices > 1 else WHOLE
    return compiled(function, (params, moments), rows, jax.random.key(0), devices=cards, specs=specs)


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_of_a_thousand_layers_takes_few_kernels_and_little_memory(fused):
    products = {"precision": "bfloat16", "fused": True} if fused else {}
    found = update(1024, **products)
    show(depth=1024, fused=fused, **found)
    assert found["kernels"] / 256 < (1 if fused else 40)
    assert found["GB"] < (5 if fused else 7)


def test_a_layer_as_one_kernel_halves_what_both_passes_launch():
    x, blocks = jax.eval_shape(partial(layer_kernels.random_stack, 64, 1024, 256))
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=jax.sharding.AbstractDevice(KIND, None, "gpu"))
    for precision in ("tensorfloat32", "bfloat16"):
        passes = layer_kernels.both(precision, interpret=False)
        with jax.sharding.use_abstract_mesh(mesh):  # JAX 0.12 asks it what Triton compiles for
            found = {name: compiled(function, x, blocks) for name, function in passes.items()}
        show(depth=64, precision=precision, **found)
        assert found["triton"]["kernels"] < 0.6 * found["xla"]["kernels"]


def test_eight_cards_exchange_gradients_and_goals_alone():
    """Each sends its gradients once, gets its share of the sums, and the parameters made of them."""
    found = update(64, devices=8)
    show(depth=64, devices=8, **found)
    assert found["sent_MB"].keys() <= {"all-reduce", "all-gather", "reduce-scatter"}


def test_the_deepest_network_that_is_said_to_fit_an_h100_does():
    config = preset("humanoid").teacher
    spec = Learner(config).spec

    def needs(depth):
        network = config.network.model_copy(update={"depth": depth, "architecture": "scaled"})
        return sum(memory.estimate(config.model_copy(update={"network": network}), spec, batched=True))

    deepest = max(depth for depth in range(64, 20_000, 64) if needs(depth) < MEMORY)
    found = update(deepest)
    show(deepest=deepest, **found)
    assert found["GB"] < MEMORY / 1e9
