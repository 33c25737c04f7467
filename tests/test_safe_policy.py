"""policy_safe.onnx: what it answers where a policy must not be trusted."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from runtimes import RUNTIMES
from test_export import SPEC, A, G, N, policy

from export.controller import open_session
from export.graph import graph_sha256, policy_graph
from export.safe_policy import check_safe, hold_action, ranges, safe_policy_graph
from teacher.errors import FathomError
from teacher.tasks import make_task


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(1)
    obs = random.uniform(-1, 1, (200, N)).astype(np.float32)
    return obs, random.uniform(SPEC.goal.low, SPEC.goal.high, (200, G)).astype(np.float32)


@pytest.fixture(scope="module")
def safe(inputs):
    return safe_policy_graph(policy_graph(policy, SPEC), SPEC, ranges(SPEC, *inputs))


@pytest.fixture(scope="module")
def session(safe):
    return open_session(safe.SerializeToString())


def ask(session, obs, goal):
    return session.run(["actions", "outside"], {"obs": obs[None], "goal": goal[None]})


def test_within_the_ranges_it_is_the_policy_and_nothing_is_outside(session, inputs):
    for obs, goal in zip(*inputs, strict=True):
        action, outside = ask(session, obs, goal)
        np.testing.assert_allclose(action, policy(obs[None], goal[None]), atol=1e-5)
        np.testing.assert_array_equal(outside, [[0, 0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_entry_that_is_not_finite_holds_the_robot(session, inputs, value):
    for entry in range(N + G):
        both = np.concatenate([inputs[0][0], inputs[1][0]])
        both[entry] = value
        action, outside = ask(session, both[:N], both[N:])
        np.testing.assert_array_equal(action[0], np.zeros(A))
        assert outside[0, int(entry >= N)] == np.finfo(np.float32).max
        assert outside[0, int(entry < N)] == 0


@pytest.mark.parametrize("value", [1e38, -1e38, np.finfo(np.float32).max])
def test_huge_inputs_are_answered_with_finite_actions_in_range(session, inputs, value):
    action, outside = ask(session, np.full(N, value, np.float32), inputs[1][0])
    assert np.isfinite(action).all()
    assert np.abs(action).max() <= 1
    assert np.isfinite(outside).all()
    assert outside[0, 0] > 1e6


def test_outside_is_the_excess_in_widths_of_the_range(session, inputs):
    low, high = np.array(SPEC.goal.low), np.array(SPEC.goal.high)
    goal = inputs[1][0].copy()
    goal[1] = high[1] + 0.25 * (high[1] - low[1])
    np.testing.assert_allclose(ask(session, inputs[0][0], goal)[1], [[0, 0.25]], atol=1e-5)
    seen = inputs[0]
    obs = seen[0].copy()
    obs[4] = seen[:, 4].min() - 0.5 * np.ptp(seen[:, 4])
    np.testing.assert_allclose(ask(session, obs, inputs[1][0])[1], [[0.5, 0]], atol=1e-5)


# Of all kinds: quiet and signalling, of either sign, with a payload.
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7FA00000, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
ODD = np.concatenate([NANS, np.float32([np.inf, -np.inf])])


def odd_inputs(count, obs, goal):
    """Inputs of which an entry is not finite: each entry with each value, then some or all of them."""
    draw, both = np.random.default_rng(0), np.concatenate([obs, goal], axis=1)
    for i in range(count):
        row, single = both[i % len(both)].copy(), i < (N + G) * len(ODD)
        if single:
            row[i % (N + G)] = ODD[i // (N + G)]
        else:
            places = draw.choice(N + G, draw.integers(1, N + G + 1), replace=False)
            row[places] = draw.choice(ODD, len(places))
        yield row[None, :N].copy(), row[None, N:].copy()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_holds_whatever_is_not_finite(safe, inputs, tmp_path, runtime):
    onnx.save(safe, tmp_path / "safe.onnx")
    try:
        ask_runtime = RUNTIMES[runtime](tmp_path / "safe.onnx")
    except ImportError as error:
        pytest.skip(f"{runtime}: {error}")
    for obs, goal in zip(*(values[:10] for values in inputs), strict=True):
        found = np.asarray(ask_runtime(obs[None], goal[None])).reshape(-1)
        np.testing.assert_allclose(found, policy(obs[None], goal[None])[0], atol=1e-5)
    for obs, goal in odd_inputs(200 if runtime == "tinygrad" else 1000, *inputs):
        found = np.asarray(ask_runtime(obs, goal)).reshape(-1)
        assert np.array_equal(found, np.zeros(A)), (obs, goal, found)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_policy_that_answers_nan_is_held(inputs, tmp_path, runtime):
    def unsound(obs, goal):
        """Answers NaN at one joint where the first entry is negative."""
        factor = jnp.sqrt(obs[:, :1])
        return policy(obs, goal) * jnp.concatenate([jnp.ones((1, A - 1)), factor], axis=1)

    graph = safe_policy_graph(policy_graph(unsound, SPEC), SPEC, ranges(SPEC, *inputs))
    onnx.save(graph, tmp_path / "safe.onnx")
    try:
        ask_runtime = RUNTIMES[runtime](tmp_path / "safe.onnx")
    except ImportError as error:
        pytest.skip(f"{runtime}: {error}")
    obs, goal = (values[:1].copy() for values in inputs)
    for sign in (1, -1):
        obs[0, 0] = sign * 0.5
        found = np.asarray(ask_runtime(obs, goal)).reshape(-1)
        expected = unsound(obs, goal)[0] if sign > 0 else np.zeros(A)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_actions_beyond_one_are_clipped(inputs):
    def eager(obs, goal):
        return 3 * policy(obs, goal)

    graph = safe_policy_graph(policy_graph(eager, SPEC), SPEC, ranges(SPEC, *inputs))
    session = open_session(graph.SerializeToString())
    actions = np.concatenate([ask(session, o, g)[0] for o, g in zip(*inputs, strict=True)])
    assert np.abs(actions).max() == 1
    np.testing.assert_allclose(actions, np.clip(eager(*inputs), -1, 1), atol=1e-5)


def test_a_graph_that_answers_otherwise_is_refused(safe, inputs):
    expected = np.asarray(policy(*inputs))
    with pytest.raises(FathomError, match="policy_safe differs from policy at observation"):
        check_safe(safe, *inputs, expected + 1e-3)
    broken = onnx.ModelProto()
    broken.CopyFrom(safe)
    (node,) = (node for node in broken.graph.node if node.output[0] == "actions")
    node.input[2] = "safe.clipped"
    session = open_session(safe.SerializeToString())
    own = np.concatenate([ask(session, o, g)[0] for o, g in zip(*inputs, strict=True)])
    check_safe(safe, *inputs, own)
    with pytest.raises(FathomError, match=r"policy_safe: obs\[0\] = nan is answered"):
        check_safe(broken, *inputs, own)


def test_holding_is_no_motion_for_rates_and_the_offset_for_positions():
    shifted = SPEC.model_copy(update={"action": SPEC.action.model_copy(update={"offset": (0.5,) * A})})
    np.testing.assert_array_equal(hold_action(shifted), np.full(A, -0.5))
    np.testing.assert_array_equal(hold_action(make_task("quad_reach").spec), np.zeros(12))


def test_a_gripper_among_joints_keeps_what_it_holds():
    spec = make_task("fr3_pick_place").spec
    hold = hold_action(spec)
    np.testing.assert_array_equal(hold[:4], 0)
    assert spec.action.offset[4] + spec.action.scale[4] * hold[4] <= 0.04  # the cube's edge, m


def test_hash_of_a_graph_survives_annotation_and_feels_one_weight(safe, tmp_path):
    before = graph_sha256(safe)
    annotated = onnx.ModelProto()
    annotated.CopyFrom(safe)
    onnx.helper.set_model_props(annotated, {"note": "left arm"})
    annotated.producer_name = "somebody"
    onnx.save(annotated, tmp_path / "annotated.onnx")
    assert graph_sha256(onnx.load(Path(tmp_path / "annotated.onnx"))) == before
    weights = onnx.numpy_helper.to_array(annotated.graph.initializer[0]).copy()
    weights.flat[0] = np.nextafter(weights.flat[0], np.float32(9))
    name = annotated.graph.initializer[0].name
    annotated.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, name))
    assert graph_sha256(annotated) != before
