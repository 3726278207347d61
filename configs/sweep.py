"""Many small runs of one config together on one device: leads, seeds, rates, weights.

Command   python -m fmalign_jax.sweep --config configs/sweep.py[:VARIANT]

Variants
  leads   configs/pretrain.py at leads of 0 to 420 s
  seeds   configs/pretrain.py with eight seeds
  smoke   configs/pretrain.py:smoke at two leads, with two seeds each

Purpose   The run that `run` describes is trained for every combination of the values in
  `vary`: --config.vary.data.lead_s='(120.0, 240.0)' --config.vary.seed='(0, 1, 2)'
  --config.vary.optimizer.learning_rate='(3e-4, 1e-3)'. Everything else that a run may
  set is under `run`, such as --config.run.data.path='recordings/*.npz'. What may vary
  and what is written: docs/sweep.md.
"""

import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import load_file, sweep_config

PRETRAIN = pathlib.Path(__file__).parent / "pretrain.py"
LEADS_S = tuple(float(lead_s) for lead_s in range(0, 421, 60))


def get_config(variant: str = "leads") -> ConfigDict:
    variants = {"leads": leads, "seeds": seeds, "smoke": smoke}
    if variant not in variants:
        raise ValueError(
            f"configs/sweep.py has the variants {', '.join(variants)}; got "
            f"{variant!r}; choose one of them"
        )
    run = "smoke" if variant == "smoke" else "default"
    config = sweep_config(load_file(PRETRAIN).get_config(run))
    variants[variant](config)
    return config


def leads(config: ConfigDict) -> None:
    config.vary.data.lead_s = LEADS_S


def seeds(config: ConfigDict) -> None:
    config.vary.seed = tuple(range(8))


def smoke(config: ConfigDict) -> None:
    config.vary.data.lead_s = (0.0, 240.0)
    config.vary.seed = (0, 1)
