"""FmFormer's PyTorch form in benchmarks/ does the same work: same numbers."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import torch_fmformer  # noqa: E402

from fmalign_jax.models.fmformer import FmFormer  # noqa: E402


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dilated": False, "phase_layer_norm": True},
        {"video": "", "frame_stride": 1},
        {"current": ""},
    ],
)
def test_logits_and_gradients_are_the_same(options):
    ours = FmFormer(2, width=12, depth=2, heads=3, hidden=24, **options)
    rng = np.random.default_rng(0)
    inputs = {
        "video": rng.normal(size=(3, 6, 1, 16, 16, 3)).astype(np.float32),
        "current": rng.normal(size=(3, 6, 2, 3)).astype(np.float32),
    }
    batch = {m: jnp.asarray(x) for m, x in inputs.items()}
    params = ours.init(jax.random.key(0), batch, train=False)["params"]

    def loss(params):
        logits = ours.apply({"params": params}, batch, train=False)
        return (logits[:, 0] ** 2).sum(), logits

    (_, expected), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    theirs = torch_fmformer.FmFormer(ours, {m: x.shape[1:] for m, x in inputs.items()})
    theirs.copy_from(jax.device_get(params))
    found = theirs({m: torch.tensor(x) for m, x in inputs.items()})
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    (found[:, 0] ** 2).sum().backward()
    count = sum(p.numel() for p in theirs.parameters())
    assert count == sum(x.size for x in jax.tree.leaves(params))
    stream = "current" if ours.current else "video"
    np.testing.assert_allclose(
        getattr(theirs.self_0, f"{stream}_qkv").weight.grad.T,
        gradients["self_0"][f"{stream}_qkv"]["kernel"],
        rtol=1e-3,
        atol=1e-4,
    )
