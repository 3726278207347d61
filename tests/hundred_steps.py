"""Trains on one device and on eight in double precision; prints how far they part.

    JAX_ENABLE_X64=1 JAX_NUM_CPU_DEVICES=8 python tests/hundred_steps.py STEPS

Rounding is 1e-16 here instead of 1e-7, so that a hundred steps do not make much of it,
and what is left are true differences: another negative, permutation or code. Run as a
process of its own, because the precision of all modules is chosen before they are
imported.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np


def main(steps: int) -> None:
    """Prints, as JSON, the largest difference of each metric and part of the state."""
    jnp.float32 = jnp.float64  # what asks for float32 computes and stores float64
    import tiny

    from fmalign_jax import sharding, train_step

    config = tiny.tiny_config()
    config.compute_dtype = "float64"
    config.objectives.cross_cpc.starts = "random"
    learner, one, first = tiny.first_state(config)
    eight = sharding.make_mesh()
    meshes = {1: one, 8: eight}
    states = {
        devices: jax.device_put(jax.tree.map(jnp.copy, first), sharding.replicated(m))
        for devices, m in meshes.items()
    }
    compiled = {n: train_step.make_train_step(learner, m) for n, m in meshes.items()}
    differences = {}
    for step in range(steps):
        rows = tiny.random_batch(config, seed=step)
        metrics = {}
        for devices, mesh in meshes.items():
            batch = sharding.place_batch(rows, mesh)
            states[devices], found = compiled[devices](states[devices], batch)
            metrics[devices] = jax.device_get(found["scalars"])
        for name, value in metrics[1].items():
            apart = abs(float(metrics[8][name]) - float(value)) / max(1, abs(value))
            differences[name] = max(apart, differences.get(name, 0.0))
    for part in ("params", "critic_params", "codebook"):
        leaves = [jax.tree.leaves(getattr(states[n], part)) for n in (1, 8)]
        assert {x.dtype.name for x in leaves[0]} <= {"float64", "int32"}
        differences[part] = max(
            float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())
            for a, b in zip(*leaves, strict=True)
        )
    moved = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(
            jax.tree.leaves(states[1].params),
            jax.tree.leaves(first.params),
            strict=True,
        )
    )
    print(json.dumps({"differences": differences, "moved": moved}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
