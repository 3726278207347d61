"""Networks of Cross-CPC and CLUB, and what CLUB makes of known information."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmalign_jax import losses
from fmalign_jax.models.critics import ClubNetwork, CpcNetwork, gaussians_side_by_side


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# --- Cross-CPC --------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpc():
    network = CpcNetwork(steps=3, features=5, width=8)
    z = normal(0, 2, 9, 4)
    return network, jax.jit(network.init)(jax.random.key(1), z), z


def test_contexts_know_the_past_alone(cpc):
    network, variables, z = cpc
    contexts = network.apply(variables, z, method="contexts")
    changed = network.apply(variables, z.at[:, 5:].add(1.0), method="contexts")
    assert contexts.shape == (2, 9, 8)
    np.testing.assert_array_equal(changed[:, :5], contexts[:, :5])
    assert (np.abs(changed[:, 5:] - contexts[:, 5:]).max(axis=(0, 2)) > 1e-4).all()


def test_windows_do_not_mix(cpc):
    network, variables, z = cpc
    together = network.apply(variables, z)
    np.testing.assert_allclose(together[:1], network.apply(variables, z[:1]), atol=1e-6)


def test_predictors_are_linear_and_one_per_step(cpc):
    network, variables, _ = cpc
    kernel = np.array(variables["params"]["predictors"]["kernel"])
    assert kernel.shape == (8, 3, 5)
    assert list(variables["params"]["predictors"]) == ["kernel"]
    h = normal(2, 6, 8)
    predicted = network.apply(variables, h, method="predict")
    for step in range(3):
        expected = np.array(h) @ kernel[:, step]
        np.testing.assert_allclose(predicted[:, step], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_depth_of_the_lstm(layers):
    network = CpcNetwork(steps=1, features=2, width=4, layers=layers)
    params = jax.eval_shape(network.init, jax.random.key(0), normal(0, 1, 3, 2))
    recurrent = [name for name in params["params"] if name.startswith("recurrent")]
    assert len(recurrent) == layers


# --- CLUB -------------------------------------------------------------------------


def test_club_network_has_the_published_form():
    network = ClubNetwork(features=3)
    variables = jax.eval_shape(network.init, jax.random.key(0), normal(0, 2, 4, 6))
    params = variables["params"]
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    expected = [(6, 128), (128, 128), (128, 128), (128, 3)]
    assert shapes == {
        f"{head}_{i}": shape
        for head in ("mean", "log_variance")
        for i, shape in enumerate(expected)
    }


def test_log_variance_is_bounded():
    network = ClubNetwork(features=3)
    z = 1e3 * normal(0, 50, 6)
    mean, log_variance = network.apply(network.init(jax.random.key(0), z), z)
    assert np.abs(log_variance).max() <= 1
    assert np.abs(mean).max() > 1


def test_unit_variance_has_no_second_network():
    network = ClubNetwork(features=3, learned_variance=False)
    z = normal(0, 2, 6)
    variables = network.init(jax.random.key(0), z)
    assert not any("variance" in name for name in variables["params"])
    _, log_variance = network.apply(variables, z)
    assert not np.any(log_variance)


@pytest.mark.parametrize("widths", [(3, 3), (3, 5)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_networks_side_by_side_are_each_alone(backend, widths, monkeypatch):
    """As one product or one by one: the same numbers, in NumPy, and their gradients."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    networks = [ClubNetwork(features=width, hidden=(7, 6)) for width in widths]
    networks.append(ClubNetwork(features=3, hidden=(7, 6), learned_variance=False))
    inputs = [normal(i, 2, 4, 6) for i in range(3)]
    seed = jax.random.key(1)
    params = [
        jax.tree.map(lambda x: x + 0.1, n.init(jax.random.fold_in(seed, i), z))
        for i, (n, z) in enumerate(zip(networks, inputs, strict=True))
    ]

    def together(params):
        bound = [n.bind(p) for n, p in zip(networks, params, strict=True)]
        return gaussians_side_by_side(bound, inputs)

    def numpy_mlp(layers, head, z):
        for depth in range(3):
            own = layers["params"][f"{head}_{depth}"]
            z = (np.maximum(z, 0) if depth else z) @ own["kernel"] + own["bias"]
        return z

    for own, z, (mean, log_variance) in zip(
        params, inputs, together(params), strict=True
    ):
        expected = numpy_mlp(own, "mean", np.asarray(z))
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
        expected = np.zeros_like(expected)
        if "log_variance_0" in own["params"]:
            expected = np.tanh(numpy_mlp(own, "log_variance", np.asarray(z)))
        np.testing.assert_allclose(log_variance, expected, rtol=1e-5, atol=1e-5)

    def loss(found):
        return sum(jnp.sum(jnp.sin(mean) * scale + scale) for mean, scale in found)

    alone = jax.grad(
        lambda params: loss(
            [n.apply(p, z) for n, p, z in zip(networks, params, inputs, strict=True)]
        )
    )(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.grad(lambda params: loss(together(params)))(params),
        alone,
    )
    products = str(jax.make_jaxpr(together)(params)).count("dot_general")
    assert products == (15 if backend == "cpu" else 3 if widths == (3, 3) else 6)


def correlated(key: jax.Array, batch: int, d: int, r: jax.Array | float):
    """Pairs (z, s) [B, 1, d] of standard normals with correlation r per dimension."""
    z, noise = jax.random.normal(key, (2, batch, 1, d))
    return z, r * z + jnp.sqrt(1 - r**2) * noise


def fitted(network: ClubNetwork, d: int, r: float, steps: int = 300):
    """The critic after likelihood steps on fresh samples."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = network.init(jax.random.key(0), jnp.zeros((1, 1, d)))

    def negative_log_likelihood(params, key):
        z, s = correlated(key, 256, d, r)
        return -losses.gaussian_log_likelihood(*network.apply(params, z), s).mean()

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(negative_log_likelihood)(params, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    keys = jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda: jax.lax.scan(step, start, keys)[0][0])()


@pytest.mark.parametrize(("d", "r"), [(1, 0.7), (4, 0.5)])
def test_information_of_gaussians_is_found_within_ten_percent(d, r):
    network = ClubNetwork(features=d, hidden=(64, 64))
    params = fitted(network, d, r)
    z, s = correlated(jax.random.key(2), 20_000, d, r)
    mean, log_variance = network.apply(params, z)

    information = -d / 2 * np.log(1 - r**2)
    conditional = losses.gaussian_log_likelihood(mean, log_variance, s).mean()
    marginal = losses.gaussian_log_likelihood(
        jnp.zeros_like(s), jnp.zeros_like(s), s
    ).mean()
    assert conditional - marginal == pytest.approx(information, rel=0.1)

    # CLUB is an upper bound: E_z[KL(p(s) || p(s|z))] above, in closed form r^2/(1-r^2).
    full = float(losses.club_full(mean, log_variance, s).mean())
    cycle = losses.random_cycle(jax.random.key(3), jnp.ones(len(s), bool))
    sampled = losses.club_sampled(mean, log_variance, s, cycle).mean()
    assert full == pytest.approx(d * r**2 / (1 - r**2), rel=0.1)
    assert sampled == pytest.approx(full, rel=0.1)
    assert full > information


def test_unit_variance_measures_explained_variance():
    network = ClubNetwork(features=2, hidden=(64, 64), learned_variance=False)
    params = fitted(network, 2, 0.7)
    z, s = correlated(jax.random.key(2), 20_000, 2, 0.7)
    full = losses.club_full(*network.apply(params, z), s).mean()
    assert full == pytest.approx(2 * 0.7**2, rel=0.1)


def test_information_falls_when_the_bound_is_minimised():
    """Five likelihood steps of the critic to each step of the correlation."""
    d = 2
    network = ClubNetwork(features=d, hidden=(32, 32))
    params = fitted(network, d, 0.75, steps=200)
    critic_optimizer, optimizer = optax.adam(1e-3), optax.adam(2e-2)

    def samples(angle, key):
        return correlated(key, 256, d, jnp.sin(angle))

    def negative_log_likelihood(params, z, s):
        return -losses.gaussian_log_likelihood(*network.apply(params, z), s).mean()

    def bound(angle, params, key):
        z, s = samples(angle, key)
        return losses.club_full(*network.apply(params, z), s).mean()

    def outer(carry, key):
        angle, state, params, critic_state = carry
        z, s = samples(angle, key)
        for _ in range(5):
            gradient = jax.grad(negative_log_likelihood)(params, z, s)
            updates, critic_state = critic_optimizer.update(gradient, critic_state)
            params = optax.apply_updates(params, updates)
        value, gradient = jax.value_and_grad(bound)(angle, params, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(angle, updates), state, params, critic_state), value

    angle = jnp.arcsin(0.75)
    start = (angle, optimizer.init(angle), params, critic_optimizer.init(params))
    keys = jax.random.split(jax.random.key(4), 120)
    (angle, *_), values = jax.jit(lambda: jax.lax.scan(outer, start, keys))()
    assert np.sin(angle) ** 2 < 0.05 * 0.75**2  # information, to first order
    assert values[-10:].mean() < 0.2 * values[:3].mean()
