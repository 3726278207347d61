"""The other systems, each trained on the furnaces of configs/pretrain.py.

Command   python -m fmalign_jax.train --config configs/systems.py:VARIANT

Variants
  clip    two towers and a contrast of windows with a learned temperature (CLIP,
          Radford et al. 2021); no codebook. Labels: none. Parameters: see below.
  Each with +smoke, as clip+smoke: in miniature, to see that everything works.

Purpose   Systems to compare with, under the same data, encoders, batch and number of
  steps as configs/pretrain.py. docs/systems.md says what each of them is and how to
  add one.
"""

import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import component, load_file

PRETRAIN = pathlib.Path(__file__).parent / "pretrain.py"


def get_config(variant: str = "clip") -> ConfigDict:
    systems = {"clip": clip}
    known = [f"{name}{size}" for name in systems for size in ("", "+smoke")]
    if variant not in known:
        raise ValueError(
            f"configs/systems.py has the variants {', '.join(known)}; got "
            f"{variant!r}; choose one of them"
        )
    name, _, size = variant.partition("+")
    config = load_file(PRETRAIN).get_config(size or "default")
    systems[name](config)
    return config


def clip(config: ConfigDict) -> None:
    config.model.name = "fmalign_jax.systems.two_tower.TwoTower"
    for parts in config.model.modalities.values():
        del parts["specific"]
    del config["codebook"]
    config.objectives = ConfigDict(
        {
            "clip": component(
                "fmalign_jax.objectives.clip.Clip",
                weight=1.0,
                anchor="video",
                positive="current",
            )
        }
    )
    config.score = "clip_accuracy"
