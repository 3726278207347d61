"""The PyTorch reference of benchmarks/ does the same work: same numbers."""

import pathlib
import sys

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import cases  # noqa: E402
import torch_step  # noqa: E402

from fmalign_jax.training import preprocess, sharding, step as train_step  # noqa: E402
from fmalign_jax.training.state import encode  # noqa: E402

CONFIGS = (
    "configs/cmg_paper.py:smoke",
    "configs/pretrain.py:smoke",
    "configs/pretrain.py:smoke+patches",
)


def _case(path):
    """A case in which nothing is random: the two draw other numbers."""
    config = cases.load_config(path)
    cases.without_augmentation(config)
    config.batch_size = 6
    config.model.transformer.dropout = 0.0
    config.objectives.cross_cpc.starts = "all"
    config.objectives.club.estimator = "full"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.epsilon = 1e-3  # rounding is not amplified where a gradient is 0
    return cases.make_case(config, sharding.one_device_mesh())


@pytest.fixture(scope="module", params=CONFIGS)
def both(request):
    case = _case(request.param)
    reference = torch_step.TorchTrainer(case.trainer.config, case.tick_shapes)
    reference.copy_from(jax.device_get(case.state))
    normalised = preprocess.normalise(case.batch["streams"], case.state.statistics)
    batch = {m: torch.tensor(np.asarray(x)) for m, x in normalised.items()}
    return case, reference, normalised, batch


@pytest.mark.slow
def test_encoders_codes_and_losses_are_the_same(both):
    case, reference, normalised, batch = both
    expected = encode(
        case.trainer,
        case.state.params["model"],
        case.state.model_state,
        normalised,
        case.batch,
        train=False,
    )
    reference.eval()
    with torch.no_grad():
        found = reference.features(batch)
        losses = reference.losses(found)
    for m, z in expected.semantic.items():
        np.testing.assert_allclose(found["semantic"][m], z, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            found["summary"][m], expected.pooled_specific[m], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_array_equal(found["codes"][m], expected.codes[m])
    params = case.state.params["objectives"] | case.state.critic_params
    terms, _ = case.trainer.objectives.apply({"params": params}, expected, train=False)
    assert losses.keys() == terms.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(
            losses[name], value.mean(), rtol=1e-4, atol=1e-4, err_msg=name
        )


@pytest.mark.slow
def test_a_train_step_does_the_same(both):
    case, reference, _, batch = both
    reference.copy_from(jax.device_get(case.state))
    reference.make_optimisers()
    step = train_step.make_train_step(case.trainer, case.mesh)
    state = jax.tree.map(lambda x: x + 0, case.state)  # the step takes it over
    for _ in range(2):
        state, metrics = step(state, case.batch)
        loss = reference.step(batch)
        np.testing.assert_allclose(loss, metrics["scalars"]["loss"], rtol=1e-4)
    expected = torch_step.TorchTrainer(case.trainer.config, case.tick_shapes)
    expected.copy_from(jax.device_get(state))
    for name, value in expected.state_dict().items():
        if not name.startswith("idle"):
            # Rounding decides on which side of its kink a unit of a critic lies.
            tolerance = 1e-3 if name.startswith("critics") else 1e-4
            np.testing.assert_allclose(
                reference.state_dict()[name], value, atol=tolerance, err_msg=name
            )
