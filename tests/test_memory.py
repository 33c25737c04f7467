"""What a run takes of memory is foreseen, and what does not fit is refused before it begins."""

import re

import jax
import jax.numpy as jnp
import pytest

from pipelines import stages
from pipelines.config import Config, preset
from pipelines.presets import PRESETS
from teacher import memory
from teacher.compilation import jit_once
from teacher.config import NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.errors import UsageError
from teacher.learner import Learner
from teacher.networks import init_params
from teacher.replay import Batch
from teacher.tasks import make_task

SPEC = make_task("reacher").spec


def config(depth, width, batch, **network):
    return TeacherConfig(
        task=TaskConfig(name="reacher", engine="mjx"),
        network=NetworkConfig(depth=depth, width=width, **network),
        update=UpdateConfig(batch_size=batch),
    )


def measured(asked):
    """What XLA reserves for one update: its arguments, in whose place the results lie, and the rest."""
    learner = Learner(asked)
    sizes = (SPEC.observation_size, SPEC.action_size, SPEC.goal_size)

    def init(key):
        params = init_params(learner.networks, key, sizes)
        return params, learner.optimiser.init(params)

    key = jax.random.key(0)
    rows = Batch(*(jax.ShapeDtypeStruct((asked.update.batch_size, size), jnp.float32) for size in sizes))
    update = jit_once(learner.update, donate_argnums=0)
    account = update.lower(jax.eval_shape(init, key), rows, key).compile().memory_analysis()
    return (
        account.argument_size_in_bytes
        + account.temp_size_in_bytes
        + account.output_size_in_bytes
        - account.alias_size_in_bytes
    )


def reserved(needs):
    """Of what a run needs, bytes that one update holds: all but the average, the replay and what steps it."""
    return sum(needs) - needs.parameters // 2 - needs.replay - needs.environments - needs.saving


def test_the_estimate_is_what_xla_reserves():
    """Over depth 4 to 1024, width 16 to 1024 and batch 64 to 4096 float32 was within -8 to +21 %."""
    asked = config(64, 64, 256, precision="float32")
    needs = memory.estimate(asked, SPEC)
    assert 0.85 < measured(asked) / reserved(needs) < 1.15


# Compiled for an H100, tests/test_h100.py: GB of arguments and temporaries together.
ON_H100 = [
    (64, 256, 512, "tensorfloat32", 0.479),
    (256, 256, 512, "tensorfloat32", 1.962),
    (1024, 256, 512, "tensorfloat32", 6.823),
    (256, 64, 512, "tensorfloat32", 0.341),
    (256, 256, 128, "tensorfloat32", 1.103),
    (64, 1024, 512, "tensorfloat32", 4.124),
    (64, 256, 2048, "tensorfloat32", 1.385),
    (256, 256, 512, "bfloat16", 1.628),
    (1024, 256, 512, "bfloat16", 5.414),
    (64, 256, 512, "fused", 0.315),
    (256, 256, 512, "fused", 1.245),
    (1024, 256, 512, "fused", 4.966),
    (256, 128, 512, "fused", 0.455),
    (256, 256, 128, "fused", 0.914),
]


@pytest.mark.parametrize(("depth", "width", "batch", "precision", "gigabytes"), ON_H100)
def test_the_estimate_for_a_gpu_is_what_its_compiler_reserves(depth, width, batch, precision, gigabytes):
    products = "bfloat16" if precision == "fused" else precision
    network = {"precision": products, "fused": precision == "fused"}
    needs = memory.estimate(config(depth, width, batch, **network), SPEC, batched=True)
    assert 0.95 < reserved(needs) / (1e9 * gigabytes) < 1.2


def test_what_shapes_say_is_counted_exactly():
    asked = config(8, 16, 32, actor_depth=4)
    state = jax.eval_shape(Learner(asked).init, jax.random.key(0))
    needs = memory.estimate(asked, SPEC)
    for tree, part in (
        ((state.params, state.average), needs.parameters),
        (state.params, needs.gradients),
        (state.optimiser, needs.optimiser),
        (state.replay, needs.replay),
    ):
        assert part == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_several_devices_divide_all_but_parameters_and_gradients():
    asked = config(64, 32, 256)
    one, four = (memory.estimate(asked, SPEC, batched=False, devices=count) for count in (1, 4))
    assert four.parameters == one.parameters
    assert four.gradients == one.gradients
    for part in ("optimiser", "activations", "replay", "environments"):
        assert getattr(four, part) == pytest.approx(getattr(one, part) / 4, rel=0.02)


FOR_A_GPU = ("rl1000", "ant-big-maze", "humanoid", "humanoid-u-maze")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_where_it_is_meant_to_run(name):
    asked, limit = preset(name).teacher, 24e9 if name in FOR_A_GPU else 2e9
    assert sum(memory.estimate(asked, make_task(asked.task.name).spec)) + memory.PROGRAM < limit


def refusal(monkeypatch, asked, free):
    monkeypatch.setattr(memory, "available", lambda: free)
    with pytest.raises(UsageError) as refused:
        memory.require_fit(asked, SPEC)
    return str(refused.value)


@pytest.mark.parametrize("field", ["depth", "critic_depth"])
def test_the_depth_that_the_refusal_names_is_the_deepest_that_fits(monkeypatch, field):
    def asked(depth):
        return config(**({"depth": 8, "width": 64, "batch": 256} | {field: depth}))

    message = refusal(monkeypatch, asked(4000), 300_000_000)
    depth = int(re.search(rf": network\.{field}=(\d+)$", message)[1])
    assert depth % 4 == 0
    memory.require_fit(asked(depth), SPEC)
    with pytest.raises(UsageError):
        memory.require_fit(asked(depth + 4), SPEC)


def test_where_no_depth_fits_the_refusal_names_what_else_to_lower_and_unknown_memory_refuses_nothing(
    monkeypatch,
):
    message = refusal(monkeypatch, config(8, 8192, 64), 1_000_000_000)
    assert "lower network.width, update.batch_size" in message
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require_fit(config(10**6, 4096, 256), SPEC)


def test_a_trained_teacher_may_be_used_where_it_could_not_be_trained(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0)
    stages.check(Config(), trained=True)
    with pytest.raises(UsageError, match=r"has 0\.00 GB"):
        stages.check(Config())


def machine(root, **files):
    for path, text in files.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MEMINFO = "MemTotal: 9000000 kB\nMemAvailable: 4000000 kB\n"
FREE = 4000000 * 1024 - memory.PROGRAM


def test_a_machine_has_what_is_free_and_its_devices_share_it(tmp_path, monkeypatch):
    assert memory.available(machine(tmp_path, proc__meminfo=MEMINFO)) == FREE
    assert memory.available(tmp_path / "other") is None
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    assert memory.available(tmp_path) == FREE // 2


@pytest.mark.parametrize("path", ["/job/step", "/elsewhere/of/the/host"])
@pytest.mark.parametrize(
    ("line", "folder", "limit", "used", "cached"),
    [
        ("0::", "", "memory.max", "memory.current", "inactive_file"),
        (
            "4:cpu,memory:",
            "memory__",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_a_container_has_what_its_limit_leaves(tmp_path, path, line, folder, limit, used, cached):
    """The limit may lie above the group itself; memory that only caches files is free."""
    top = f"sys__fs__cgroup__{folder}"
    root = machine(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup=f"9:cpuset:/\n{line}{path}\n",
        **{
            top + limit: "3000000000",
            top + used: "1200000000",
            top + "memory.stat": f"cache 700\n{cached} 200000000\n",
            f"{top}job__step__{limit}": "max",
            f"{top}job__step__{used}": "5",
        },
    )
    assert memory.available(root) == 2_000_000_000 - memory.PROGRAM
