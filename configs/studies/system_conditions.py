"""Study: each system beside itself without what it is made of.

Command   python scripts/study.py configs/studies/system_conditions.py \\
              --out docs/results/system_conditions.json
          python scripts/write_systems.py docs/results/systems.json \\
              --conditions docs/results/system_conditions.json \\
              --out docs/results/systems.md

Data      The furnaces of configs/studies/systems.py, profile `default`, seeds 0 to 2.

Purpose   Whether each system meets its own condition, which says that a part of it does
  what it is there for: several queries and one, three terms and two, a router and none,
  two levels and the lower one, contrast by label and none, ticks and windows, few steps
  and many. The systems of the study themselves are its other half. CLMLF learns with
  labels here and is compared with itself alone. `recipe` has beside it, unless
  --no-references is given, the oracle and FmFormer of the current, trained with labels.

Expected time   6 to 10 min a run on one CPU core, those `..._longer` 15 to 30.
"""

import functools
import itertools
import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import Change, load_file, unchanged

STUDY = load_file(pathlib.Path(__file__).parent / "systems.py")
DATA, train_config = STUDY.DATA, STUDY.train_config
SYSTEMS = STUDY.SYSTEMS.SYSTEMS | STUDY.SYSTEMS.SUPERVISED
FOLDS, SEEDS = ("default",), (0, 1, 2)
FUSED = ("clmlf", "clmlf_no_label_contrast", "clmlf_no_data_contrast")
"""Both modalities at once: evaluated from the fused features to themselves."""
FMFORMER_RATES, FMFORMER_DECAYS = (3e-4, 1e-3, 3e-3), (0.3, 0.03)


def but(system: str, key: str, value: float | str | tuple[str, ...]) -> Change:
    """Returns the change to a system but for one setting."""
    changed: Change = STUDY.but(SYSTEMS[system], key, value)
    return changed


def hdcid(**lower: float) -> Change:
    """Returns the change to H-DCID with another share or start of its lower level."""
    return functools.partial(STUDY.SYSTEMS.hdcid, **lower)


def hdcid_lower_from_start(config: ConfigDict) -> None:
    """The lower level alone, whose terms weigh as much as the upper ones, all along."""
    STUDY.SYSTEMS.hdcid(config, share=1.0, start=0.0)
    config.model.levels = ("lower",)


def longer(change: Change) -> Change:
    """Returns the same change, with three times the steps of all."""

    def changed(config: ConfigDict) -> None:
        change(config)
        config.epochs *= 3

    return changed


VARIANTS: dict[str, Change] = {
    "recipe": unchanged,
    "qformer_one_query": but("qformer", "model.queries", 1),
    "onellm_constant": but("onellm", "model.router", "constant"),
    "onellm_sparse": but("onellm", "model.router", "sparse"),
    "onellm_soft_input": but("onellm", "model.router", "soft_input"),
    "micu_no_fine": but("micu", "objectives.masked_contrast.fine", 0.0),
    "micu_no_coarse": but("micu", "objectives.masked_contrast.coarse", 0.0),
    "micu_no_jigsaw": but("micu", "objectives.code_jigsaw.weight", 0.0),
    "fcid_tick": but("fcid", "model.coarse", "tick"),
    "hdcid_lower": but("hdcid", "model.levels", ("lower",)),
    "hdcid_lower_from_start": hdcid_lower_from_start,
    "hdcid_share_0": hdcid(share=0.0),
    "hdcid_share_0.1": hdcid(share=0.1),
    "hdcid_from_start": hdcid(start=0.0),
    "alignvsr_no_local": but("alignvsr", "objectives.local_alignment.weight", 0.0),
    "alignvsr_no_global": but("alignvsr", "objectives.global_alignment.weight", 0.0),
    # With the 16 units that its loss is least with, as a share of frequencies'.
    "alignvsr_longer": longer(but("alignvsr", "codebook.codes", 16)),
    "recipe_longer": longer(unchanged),
    **{
        f"{name}_longer": longer(SYSTEMS[name])
        for name in ("clip", "qformer", "clmlf_pairs", "onellm")
    },
    "clmlf": SYSTEMS["clmlf"],
    "clmlf_no_label_contrast": but("clmlf", "objectives.label_contrast.weight", 0.0),
    "clmlf_no_data_contrast": but("clmlf", "objectives.data_contrast.weight", 0.0),
    "clmlf_dropout": SYSTEMS["clmlf_dropout"],
}


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run; with references also FmFormer of the current.

    As it ships, and six trials of it, which its own held-out loss judges.
    """
    config = STUDY.evaluate_config(fold, data)
    config.random_encoders = 0
    kept = config.classifiers["fmformer_current"].to_dict()
    config.classifiers = ConfigDict({"fmformer_current": kept})
    for rate, decay in itertools.product(FMFORMER_RATES, FMFORMER_DECAYS):
        training = {"learning_rate": rate, "weight_decay": decay}
        config.classifiers[f"fmformer_current+{rate:.0e}+weight_decay={decay:.0e}"] = (
            ConfigDict(kept | {"training": kept["training"] | training})
        )
    return config


def evaluate_variant(settings: ConfigDict, variant: str) -> None:
    """Reads both modalities at once where a system does."""
    if variant in FUSED:
        STUDY.evaluate_fused(settings)
