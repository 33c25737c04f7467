import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from teacher import losses


@pytest.fixture(autouse=True)
def no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def test_infonce_by_hand():
    logits = jnp.array([[0.0, jnp.log(3.0)], [jnp.log(2.0), 0.0]])
    # partitions: 1 + 3 and 2 + 1; the diagonal scores nothing
    plain = np.log([4.0, 3.0])
    np.testing.assert_allclose(losses.infonce(logits, penalty=0.0), plain, rtol=1e-6)
    np.testing.assert_allclose(losses.infonce(logits, penalty=0.5), plain + 0.5 * plain**2, rtol=1e-6)


def test_rows_of_a_larger_batch_have_the_losses_that_they_have_in_it():
    """Each device has its own rows, and the goals of all with its own first (`Devices.gather`)."""
    logits = jax.random.normal(jax.random.key(0), (6, 6))
    whole = losses.infonce(logits, penalty=0.1)
    parts = {i: jnp.roll(logits[i : i + 2], -i, axis=1) for i in (0, 2, 4)}
    for i, part in parts.items():
        np.testing.assert_allclose(losses.infonce(part, 0.1), whole[i : i + 2], rtol=1e-6)
    accuracy = [float(losses.retrieval_accuracy(part)) for part in parts.values()]
    assert np.mean(accuracy) == pytest.approx(float(losses.retrieval_accuracy(logits)))


def test_infonce_of_far_pairs_is_finite():
    far = -1e4 * jnp.ones((4, 4))
    np.testing.assert_allclose(losses.infonce(far, penalty=0.0), np.log(4.0), rtol=1e-3)
    assert jnp.isfinite(jax.grad(lambda x: losses.infonce(x, 0.1).sum())(far)).all()


def test_pairwise_distance_equals_brute_force():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    b = b[:3]
    expected = [[np.sqrt(((x - y) ** 2).sum()) for y in b] for x in a]
    np.testing.assert_allclose(losses.pairwise_distance(a, b), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.distance(a[:3], b), np.diagonal(expected), rtol=1e-5)


def test_distances_have_a_finite_slope_at_zero():
    a = jax.random.normal(jax.random.key(1), (4, 6))
    pairwise = jax.grad(lambda a, b: losses.pairwise_distance(a, b).sum(), argnums=(0, 1))(a, a)
    single = jax.grad(lambda a, b: losses.distance(a, b).sum(), argnums=(0, 1))(a, a)
    assert all(jnp.isfinite(gradient).all() for gradient in pairwise)
    np.testing.assert_array_equal(single, jnp.zeros((2, 4, 6)))
    assert (losses.distance(a, a) <= 1e-3).all()


def test_retrieval_accuracy_by_hand():
    logits = jnp.array([[3.0, 1.0, 2.0], [4.0, 1.0, 2.0], [0.0, 0.0, 1.0], [9.0, 9.0, 9.0]])
    assert float(losses.retrieval_accuracy(logits[:3])) == pytest.approx(2 / 3)
    assert float(losses.retrieval_accuracy(jnp.eye(4))) == 1.0
    assert float(losses.retrieval_accuracy(jnp.roll(jnp.eye(4), 1, axis=1))) == 0.0


def test_log_probability_equals_the_change_of_variables_by_autodiff():
    keys = jax.random.split(jax.random.key(2), 3)
    # small enough that autodiff's 1 - tanh(x)^2 keeps its digits
    mean, log_std, noise = (jax.random.normal(key, (5, 3)) / 2 for key in keys)
    action, log_probability = losses.sample_squashed(mean, log_std, noise)
    before = mean + jnp.exp(log_std) * noise
    slope = jax.vmap(jax.vmap(jax.grad(jnp.tanh)))(before)
    expected = (norm.logpdf(before, mean, jnp.exp(log_std)) - jnp.log(slope)).sum(-1)
    np.testing.assert_allclose(log_probability, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(action, jnp.tanh(before), rtol=1e-6)


@pytest.mark.parametrize("mean", [20.0, -20.0])
@pytest.mark.parametrize("log_std", [2.0, -5.0])
def test_saturated_actions_have_a_finite_log_probability_and_slope(mean, log_std):
    noise = jnp.array([[0.5], [-0.5], [4.0], [-4.0]])

    def total(mean, log_std):
        return losses.sample_squashed(mean, log_std, noise)[1].sum()

    mean, log_std = jnp.full((4, 1), mean), jnp.full((4, 1), log_std)
    _, log_probability = losses.sample_squashed(mean, log_std, noise)
    # log(1 - tanh(x)^2) is log 4 - 2|x| far out
    before = np.asarray(mean + np.exp(log_std) * noise, np.float64)
    far = np.abs(before) > 10
    expected = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - (np.log(4) - 2 * np.abs(before))
    np.testing.assert_allclose(log_probability[far[:, 0]], expected[far], rtol=1e-5)
    gradients = jax.grad(total, argnums=(0, 1))(mean, log_std)
    np.testing.assert_allclose(gradients[0], 2 * np.tanh(before), atol=1e-4)
    assert jnp.isfinite(log_probability).all()
    assert jnp.isfinite(gradients[1]).all()


def test_actor_loss_weighs_nearness_and_entropy():
    loss = losses.actor_loss(jnp.array([2.0, 3.0]), jnp.array([-1.0, 0.5]), jnp.full(2, 0.1))
    np.testing.assert_allclose(loss, [1.9, 3.05], rtol=1e-6)


def test_the_temperature_grows_where_entropy_is_below_its_target():
    def slope(entropy):
        log_probability = jnp.full(4, -entropy)
        return float(jax.grad(losses.temperature_loss)(jnp.zeros(()), log_probability, -1.0))

    assert slope(-3.0) == pytest.approx(-2.0)
    assert slope(-1.0) == pytest.approx(0.0)
    assert slope(2.0) == pytest.approx(3.0)
