"""Zero-shot evaluation of a run: a head trained on one modality, tested on the other.

Command   python -m fmalign_jax.evaluate --config configs/evaluate.py \\
              --config.checkpoint=RUN

Variants
  default   transfer with its references
  fmformer  also three classifiers trained with labels, FmFormer of both modalities, of
            the video and of the current alone (Wu et al. 2024)

Purpose   How useful the aligned codes are. RUN is the folder of a run, such as
  runs/pretrain-1a2b3c4d. Without further keys the run's own splits are used; other
  recordings are given by
      --config.head_data='labelled/*.npz' --config.test_data='unseen/*.npz'

Expected time   On a run of configs/pretrain.py (2167 head windows, 92 validation
  windows): 74 s on two CPU cores that other runs shared, random encoders and oracle
  included. `fmformer` needs a GPU, or hours.

Result   Those of a run stand with the run's config: furnaces in configs/pretrain.py,
  whole clips in configs/recordings.py.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import component, evaluation_config

VARIANTS = ("default", "fmformer")
FMFORMER = {
    "fmformer": ("video", "current"),
    "fmformer_video": ("video",),
    "fmformer_current": ("current",),
}


def get_config(variant: str = "default") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/evaluate.py has the variants {', '.join(VARIANTS)}; got "
            f"{variant!r}; choose one of them"
        )
    config = evaluation_config()
    if variant == "fmformer":
        for name, modalities in FMFORMER.items():
            config.classifiers[name] = fmformer(modalities)
    return config


def fmformer(modalities: tuple[str, ...]) -> ConfigDict:
    """Returns FmFormer of some modalities; it is trained as the oracle."""
    absent = {m: "" for m in ("video", "current") if m not in modalities}
    return component(
        "fmalign_jax.models.fmformer.FmFormer",
        modalities=modalities,
        training={
            "epochs": 10,
            "learning_rate": 5e-4,
            "weight_decay": 0.3,
            "batch_size": 64,
        },
        **absent,
    )
