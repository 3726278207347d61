"""The PyTorch forms of other systems in benchmarks/ do the same work: same numbers."""

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
import torch_systems  # noqa: E402

from fmalign_jax.training import preprocess, sharding  # noqa: E402
from fmalign_jax.training.state import encode  # noqa: E402


def _both(system):
    """The same first state of ours and in PyTorch, and the inputs of a batch."""
    config = cases.load_config(f"configs/systems.py:{system}+smoke")
    cases.without_augmentation(config)
    config.batch_size = 6
    config.model.dropout = 0.0
    if system == "clip":
        del config.model["dropout"]
        config.model.transformer.dropout = 0.0
    case = cases.make_case(config, sharding.one_device_mesh())
    reference = torch_systems.make_trainer(config, case.tick_shapes)
    reference.copy_from(jax.device_get(case.state))
    inputs = preprocess.normalise(case.batch["streams"], case.state.statistics)
    batch = {m: torch.tensor(np.asarray(x)) for m, x in inputs.items()}
    return case, reference.eval(), inputs, batch


@pytest.mark.slow
@pytest.mark.parametrize("system", ["clip", "qformer"])
def test_loss_and_gradients_are_the_same(system):
    case, reference, inputs, batch = _both(system)
    (term,) = case.trainer.objectives.terms

    def loss(params):
        features = encode(
            case.trainer,
            params["model"],
            case.state.model_state,
            inputs,
            case.batch,
            train=False,
        )
        terms, _ = case.trainer.objectives.apply(
            {"params": params["objectives"]}, features, train=False
        )
        return terms[term].mean()

    expected, gradients = jax.jit(jax.value_and_grad(loss))(case.state.params)
    found = reference.loss(batch)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-4)
    found.backward()
    for m in ("video", "current"):
        own = getattr(reference.model, f"semantics_{m}").projection
        theirs = own.weight.grad.numpy().T
        ours = gradients["model"][f"semantics_{m}"]["projection"]["kernel"]
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * abs(ours).max())


def test_cmg_has_its_own_form_and_others_are_refused():
    config = cases.load_config("configs/pretrain.py:smoke")
    shapes = {"video": (1, 64, 64, 3), "current": (4, 3)}
    assert isinstance(
        torch_systems.make_trainer(config, shapes), torch_step.TorchTrainer
    )
    config.model.name = "fmalign_jax.systems.onellm.OneLlm"
    with pytest.raises(ValueError, match="PyTorch forms are there of Cmg"):
        torch_systems.make_trainer(config, shapes)
