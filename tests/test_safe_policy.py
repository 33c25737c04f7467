"""policy_safe.onnx: what it answers where a policy must not be trusted."""

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from bundles import SPEC, A, G, N, policy
from onnx.reference import ReferenceEvaluator

from export.controller import open_session
from export.graph import check_safe, hold_action, policy_graph, ranges, safe_policy_graph
from teacher.errors import FathomError
from teacher.tasks import make_task

LARGEST = np.finfo(np.float32).max


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(1)
    obs = random.uniform(-1, 1, (200, N)).astype(np.float32)
    return obs, random.uniform(SPEC.goal.low, SPEC.goal.high, (200, G)).astype(np.float32)


def made_safe(policy, inputs):
    return safe_policy_graph(policy_graph(policy, SPEC), SPEC, ranges(SPEC, *inputs))


@pytest.fixture(scope="module")
def safe(inputs):
    return made_safe(policy, inputs)


@pytest.fixture(scope="module")
def session(safe):
    return open_session(safe.SerializeToString())


def ask(session, obs, goal):
    return session.run(["actions", "outside"], {"obs": obs[None], "goal": goal[None]})


def answers(session, inputs):
    return np.concatenate([ask(session, obs, goal)[0] for obs, goal in zip(*inputs, strict=True)])


def test_within_the_ranges_it_is_the_policy_clipped_and_nothing_is_outside(session, inputs):
    np.testing.assert_allclose(answers(session, inputs), policy(*inputs), atol=1e-5)
    for obs, goal in zip(*inputs, strict=True):
        np.testing.assert_array_equal(ask(session, obs, goal)[1], [[0, 0]])

    def eager(obs, goal):
        return 3 * policy(obs, goal)

    clipped = answers(open_session(made_safe(eager, inputs).SerializeToString()), inputs)
    assert np.abs(clipped).max() == 1
    np.testing.assert_allclose(clipped, np.clip(eager(*inputs), -1, 1), atol=1e-5)


@pytest.mark.parametrize("value", [1e38, -1e38, LARGEST])
def test_huge_inputs_are_answered_with_finite_actions_in_range(session, inputs, value):
    action, outside = ask(session, np.full(N, value, np.float32), inputs[1][0])
    assert np.isfinite(action).all() and np.abs(action).max() <= 1
    assert np.isfinite(outside).all() and outside[0, 0] > 1e6


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
        yield row[:N].copy(), row[N:].copy()


RUNTIMES = {
    "onnxruntime": lambda graph: open_session(graph.SerializeToString()),
    "reference": ReferenceEvaluator,
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_holds_whatever_is_not_finite(safe, inputs, runtime):
    asked = RUNTIMES[runtime](safe)
    np.testing.assert_allclose(answers(asked, inputs), policy(*inputs), atol=1e-5)
    for obs, goal in odd_inputs(300, *inputs):
        action, outside = ask(asked, obs, goal)
        assert np.array_equal(action[0], np.zeros(A)), (obs, goal, action)
        odd = [not np.isfinite(values).all() for values in (obs, goal)]
        assert (outside[0] == np.where(odd, LARGEST, 0)).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_policy_that_answers_nan_is_held(inputs, runtime):
    def unsound(obs, goal):
        """Answers NaN at one joint where the first entry is negative."""
        factor = jnp.sqrt(obs[:, :1])
        return policy(obs, goal) * jnp.concatenate([jnp.ones((1, A - 1)), factor], axis=1)

    asked = RUNTIMES[runtime](made_safe(unsound, inputs))
    obs, goal = (values[0].copy() for values in inputs)
    for sign in (1, -1):
        obs[0] = sign * 0.5
        expected = unsound(obs[None], goal[None])[0] if sign > 0 else np.zeros(A)
        np.testing.assert_allclose(ask(asked, obs, goal)[0][0], expected, atol=1e-5)


def test_a_graph_that_does_not_hold_is_refused(safe, inputs):
    check_safe(safe, *inputs)
    broken = onnx.ModelProto()
    broken.CopyFrom(safe)
    (node,) = (node for node in broken.graph.node if node.output[0] == "actions")
    node.input[2] = "safe.clipped"
    with pytest.raises(FathomError, match=r"policy_safe: obs\[0\] = nan is answered"):
        check_safe(broken, *inputs)


def test_holding_is_no_motion_for_rates_the_offset_for_positions_and_a_grippers_narrowest_width():
    shifted = SPEC.model_copy(update={"action": SPEC.action.model_copy(update={"offset": (0.5,) * A})})
    np.testing.assert_array_equal(hold_action(shifted), np.full(A, -0.5))
    np.testing.assert_array_equal(hold_action(make_task("quad_reach").spec), np.zeros(12))
    spec = make_task("fr3_pick_place").spec
    hold = hold_action(spec)
    np.testing.assert_array_equal(hold[:4], 0)
    assert spec.action.offset[4] + spec.action.scale[4] * hold[4] <= 0.04  # the cube's edge, m
