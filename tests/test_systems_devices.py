"""One device and eight compute the same, of every system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from system_cases import SYSTEMS, leaves, make_case


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_eight_devices_equal_one(name):
    case, shared = make_case(name), make_case(name, devices=8)
    state, _ = case.step(jax.tree.map(jnp.copy, case.state), case.batch)
    other, _ = shared.step(shared.state, shared.batch)
    expected = dict(leaves((state.params, state.model_state)))
    for path, leaf in leaves((other.params, other.model_state)):
        np.testing.assert_allclose(
            leaf, expected[path], rtol=1e-5, atol=1e-5, err_msg=path
        )
