"""The other systems, each trained on the furnaces of configs/pretrain.py.

Command   python -m fmalign_jax.train --config configs/systems.py:VARIANT

Variants
  clip    two towers and a contrast of windows with a learned temperature (CLIP,
          Radford et al. 2021); no codebook, no labels
  micu    CMG's encoders, decoders and codebook, shaped by contrasts of masked ticks and
          windows and by a jigsaw of code vectors (MICU, ICCV 2025); no labels
  onellm  tokenisers, one encoder for both modalities, three experts and a router each
          (OneLLM, Han et al. 2024), aligned as in `clip`; no labels
  qformer learned queries read the video, a class token the current; contrast of the
          nearest query and matching of pairs (BLIP-2, Li et al. 2023); no labels
  alignvsr the current is a row of units, 64 codes that it alone moves; the video
          learns to attend to those around each tick and to those of the window
          (AlignVSR, Liu et al. 2024); no labels
  hdcid   the recipe, and a second level with a codebook of its own on what is specific
          at the first (H-DCID, Xia et al. 2024); no labels
  fused_control  a control: the recipe, but the current sees the video before it is
          quantised. Its codes agree, and say nothing of the current; `evaluate` refuses
          it, scripts/fusion_control.py shows why (docs/systems.md, Controls)
  distilled
          two towers: the video learns by a contrast with itself, the current by
          predicting the video's features (student and teacher, without a label)
  temporal
          two towers and a contrast of single ticks with their partners at the same time
          (C3T, Kamboj et al. 2024); no labels
  clmlf_pairs
          the fusion network of CLMLF, each modality alone through it, and a contrast of
          the two (CLMLF, Li et al. 2022, form C); no labels
  clmlf, clmlf_dropout
          CLMLF as published, both modalities at once, with a contrast by labels (form
          A); and each of them left out at times in training (form B). Labels of what is
          tested: compare them with the oracle
  indexed CMG's encoders around one codebook a modality, in which the same index means
          the same thing (after CoDAAR, Sen et al. 2026); no labels
  fcid    CMG's encoders without codes for ticks, and a coarse level of windows that
          the modalities share, with the codebook (after FCID, ACL 2025 Findings, whose
          text is left out); no labels
  Each with +smoke, as clip+smoke: in miniature, to see that everything works.

Purpose   Systems to compare with, under the same data, encoders, batch and number of
  steps as configs/pretrain.py. docs/systems.md says what each of them is and how to
  add one.

Labels, parameters, expected time and result   Labels that shape the run: L0 none, L2
  those of what is tested (docs/systems.md). Parameters in millions: those that encode
  both modalities, and all in training. Minutes that 320 steps take on one core of a
  CPU; on two, furnaces simulated included, `clip` takes 2 min 16 s. Balanced accuracy
  video -> current on ten furnaces never seen, mean of three seeds
  (docs/results/systems.md); of `clmlf` with both modalities at once, one seed.

      variant        labels  encode  train  minutes  accuracy
      clip             L0     0.64    0.64     3      0.878
      micu             L0     0.64    0.91     6      0.832
      onellm           L0     1.35    1.35     5      0.859
      qformer          L0     1.07    1.07     5      0.869
      alignvsr         L0     0.87    0.87     5      0.584
      hdcid            L0     1.27    3.28     8      0.839
      distilled        L0     0.64    0.64     6      0.797
      temporal         L0     0.64    0.64     5      0.836
      clmlf_pairs      L0     0.65    0.65     4      0.866
      indexed          L0     0.64    1.54     6      0.858
      fcid             L0     0.67    1.91     7      0.838
      clmlf            L2     0.65    0.72     8      0.943
      clmlf_dropout    L2     0.65    0.72     8      0.882
      fused_control    L0     0.71    1.80     -      refused

  The encoder of the current with its own labels, the oracle, has 0.880. `clip+smoke`
  takes 20 s, `alignvsr+smoke` 49 s of processor time, `onellm+smoke` twice and
  `qformer+smoke` 2.4 times that of `clip+smoke`; nearly all of it is compiling.
  loss/clip of `clip` ends at 3.00 on validation, where uniform logits give 3.43, and a
  model that knows two states and nothing else 2.73: single partners are hardly told
  apart (clip_accuracy 0.065 to 0.087; chance 0.033), working states are.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config import Change, component, load_file

PRETRAIN = pathlib.Path(__file__).parent / "pretrain.py"

# What tells windows apart is small at the start beside the noise of dropout in slots
# that all windows share: with 0.1 one of two runs of OneLLM, and the one of the
# Q-Former, stayed at chance (docs/results/systems.md).
NO_DROPOUT = 0.0


def get_config(variant: str = "clip") -> ConfigDict:
    changes = SYSTEMS | SUPERVISED | CONTROLS
    known = [f"{name}{size}" for name in changes for size in ("", "+smoke")]
    if variant not in known:
        raise ValueError(
            f"configs/systems.py has the variants {', '.join(known)}; got "
            f"{variant!r}; choose one of them"
        )
    name, _, size = variant.partition("+")
    config = load_file(PRETRAIN).get_config(size or "default")
    changes[name](config)
    return config


def clip(config: ConfigDict) -> None:
    _window_contrast(config)
    config.optimizer.learning_rate = 3e-3


def _window_contrast(config: ConfigDict) -> None:
    """Two towers and a contrast of windows: what other systems start from."""
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


def micu(config: ConfigDict) -> None:
    reconstruction = config.objectives.reconstruction
    modalities = tuple(config.model.modalities)
    # As published: no direction, both modalities move the codes and follow each other.
    config.codebook.ema_mix = {
        own: {m: 1.0 / len(modalities) for m in modalities} for own in modalities
    }
    config.codebook.shared = None
    config.objectives = ConfigDict(
        {
            "reconstruction": reconstruction,
            "commitment": component(
                "fmalign_jax.objectives.commitment.Commitment",
                weight=1.0,
                weights=_pairs(modalities, own=0.25, other=0.125),
            ),
            "masked_contrast": component(
                "fmalign_jax.objectives.masked_contrast.MaskedContrast", weight=1.0
            ),
            "code_jigsaw": component(
                "fmalign_jax.objectives.code_jigsaw.CodeJigsaw", weight=1.0
            ),
        }
    )
    config.score = "coarse_accuracy"


def onellm(config: ConfigDict) -> None:
    _window_contrast(config)
    config.model.name = "fmalign_jax.systems.onellm.OneLlm"
    config.model.encoder = config.model.transformer
    config.model.encoder.dropout = NO_DROPOUT
    config.model.transformer = ConfigDict({"layers": 0, "positions": "learned"})


def qformer(config: ConfigDict) -> None:
    _window_contrast(config)
    config.model.name = "fmalign_jax.systems.qformer.QFormer"
    config.model.queried = "video"
    for key in ("heads", "ffn", "dropout"):
        config.model[key] = config.model.transformer[key]
    config.model.dropout = NO_DROPOUT
    config.model.transformer = ConfigDict({"layers": 0})
    config.objectives = ConfigDict(
        {
            "query_matching": component(
                "fmalign_jax.objectives.query_matching.QueryMatching",
                weight=1.0,
                queried="video",
                other="current",
            )
        }
    )
    config.score = "query_accuracy"


def alignvsr(config: ConfigDict) -> None:
    codebook = config.codebook
    _window_contrast(config)
    config.model.name = "fmalign_jax.systems.alignvsr.AlignVsr"
    config.model.asking, config.model.asked = "video", "current"
    config.codebook = codebook
    codebook.codes = 64
    # The current alone moves the units.
    codebook.ema_mix = {"current": {"current": 1.0}}
    codebook.shared = None
    objectives = "fmalign_jax.objectives."
    pair = {"asking": "video", "asked": "current"}
    config.objectives = ConfigDict(
        {
            "self_contrast": component(
                objectives + "self_contrast.SelfContrast",
                weight=1.0,
                second_views=("current",),
            ),
            "commitment": component(
                objectives + "commitment.Commitment",
                weight=1.0,
                weights={"current": {"current": 0.25}},
            ),
            "local_alignment": component(
                objectives + "local_alignment.LocalAlignment", weight=1.0, **pair
            ),
            "global_alignment": component(
                objectives + "global_alignment.GlobalAlignment", weight=1.0, **pair
            ),
        }
    )
    config.score = "unit_gain"


def fused_control(config: ConfigDict) -> None:
    config.model.name = "fmalign_jax.systems.fused.Fused"


def distilled(config: ConfigDict) -> None:
    _window_contrast(config)
    config.objectives = ConfigDict(
        {
            "self_contrast": component(
                "fmalign_jax.objectives.self_contrast.SelfContrast",
                weight=1.0,
                second_views=("video",),
                # At 0.1 it tells windows apart by what the current does not have.
                temperature=0.5,
            ),
            "feature_distillation": component(
                "fmalign_jax.objectives.feature_distillation.FeatureDistillation",
                weight=1.0,
                weights={"current": {"video": 1.0}},
            ),
        }
    )
    config.optimizer.learning_rate = 3e-3
    config.score = "distilled_accuracy"


def temporal(config: ConfigDict) -> None:
    _window_contrast(config)
    config.objectives = ConfigDict(
        {
            "temporal_alignment": component(
                "fmalign_jax.objectives.temporal_alignment.TemporalAlignment",
                weight=1.0,
                anchor="video",
                positive="current",
            )
        }
    )
    config.score = "tick_accuracy"


def clmlf(config: ConfigDict) -> None:
    _labelled_fusion(config, "fused")
    config.objectives.label_contrast.temperature = 0.5
    config.optimizer.learning_rate = 3e-3


def clmlf_dropout(config: ConfigDict) -> None:
    # With the settings of `clmlf` its held-out cross-entropy was 0.198, and not 0.144.
    _labelled_fusion(config, "dropout")


def clmlf_pairs(config: ConfigDict) -> None:
    _fusion(config, "pairs")
    # No networks before the contrast: one a modality would leave the features that
    # are evaluated in two spaces.
    config.objectives.clip.temperature = 0.07


def _labelled_fusion(config: ConfigDict, form: str) -> None:
    _fusion(config, form)
    config.objectives = ConfigDict(
        {
            "classification": component(
                "fmalign_jax.objectives.classification.Classification",
                weight=1.0,
                classes=2,
            ),
            "label_contrast": component(
                "fmalign_jax.objectives.label_contrast.LabelContrast",
                weight=1.0,
                temperature=0.07,
            ),
            "data_contrast": component(
                "fmalign_jax.objectives.data_contrast.DataContrast",
                weight=1.0,
                second_views=("fused",),
            ),
        }
    )
    config.score = "-loss/classification"


def _fusion(config: ConfigDict, form: str) -> None:
    _window_contrast(config)
    config.model.name = "fmalign_jax.systems.clmlf.Clmlf"
    config.model.form = form
    for key in ("heads", "ffn", "dropout"):
        config.model[key] = config.model.transformer[key]
    config.model.transformer = ConfigDict({"layers": 0})
    config.model.own_layers = {"video": 1}


def indexed(config: ConfigDict) -> None:
    config.model.name = "fmalign_jax.systems.indexed_codebooks.IndexedCodebooks"
    # As published: no direction, but the codebooks are mixed one after the other.
    config.codebook.ema_mix = {
        "video": {"video": 0.75, "current": 0.25},
        "current": {"video": 0.25, "current": 0.75},
    }
    config.codebook.cascade = {
        "video": {"video": 0.75, "current": 0.25},
        "current": {"video": 0.5, "current": 0.5},
    }
    config.codebook.shared = None
    terms = config.objectives
    terms.commitment.weights = {
        "video": {"video": 0.5, "current": 0.125},
        "current": {"video": 0.125, "current": 0.5},
    }
    for name in ("code_matching", "cross_cpc"):
        terms[name].learns_from = None
    terms.code_matching.weight = 5.0  # 0.5 as published; in trials less is found
    kept = ("reconstruction", "commitment", "code_matching", "cross_cpc")
    config.objectives = ConfigDict({name: terms[name] for name in kept})
    config.score = "token_agreement/current-video"


def hdcid(config: ConfigDict, *, share: float = 0.3, start: float = 0.6) -> None:
    """Two levels; the terms of the lower one weigh a share, and start after a part."""
    config.model.name = "fmalign_jax.systems.hdcid.HDcid"
    config.codebook.shared = None  # heads read the codes of both levels
    decoder = component("fmalign_jax.models.decoders.DenseDecoder")
    for name in ("reconstruction", "commitment", "code_matching", "cross_cpc", "club"):
        term = config.objectives[name].to_dict()
        if name == "reconstruction":
            term["decoders"] = dict.fromkeys(term["decoders"], decoder.to_dict())
        config.objectives[f"lower_{name}"] = _at_lower(
            term, share=share, from_epoch=start * config.epochs
        )
    config.score = "equal_share"


def fcid(config: ConfigDict) -> None:
    config.model.name = "fmalign_jax.systems.fcid.Fcid"
    config.model.coarse = "window"
    config.optimizer.learning_rate = 3e-4
    modalities = tuple(config.model.modalities)
    # As published, with the share of the text left out: both modalities move the codes,
    # each by its own features twice as much as by the other's.
    config.codebook.ema_mix = _pairs(modalities, own=2 / 3, other=1 / 3)
    config.codebook.shared = None
    old = config.objectives.to_dict()
    coarse = {
        "commitment": old["commitment"]
        | {"weight": 1.0, "weights": _pairs(modalities, own=0.5, other=0.125)},
        "code_matching": old["code_matching"] | {"weight": 0.5, "learns_from": None},
        "club": old["club"] | {"shared": True},
        "clip": {
            "name": "fmalign_jax.objectives.clip.Clip",
            "weight": 1.0,
            "anchor": "video",
            "positive": "current",
            "temperature": 0.1,
        },
        "reconstruction": old["reconstruction"]
        | {
            "decoders": {
                m: {
                    "name": "fmalign_jax.models.decoders.DenseDecoder",
                    "features": config.model.width,
                }
                for m in modalities
            }
        },
    }
    old["cross_cpc"] |= {"steps": 1, "stride": 1, "learns_from": None}
    config.objectives = ConfigDict(
        {name: old[name] for name in ("reconstruction", "club", "cross_cpc")}
    )
    for name, term in coarse.items():
        config.objectives[f"coarse_{name}"] = _at_lower(term)
    config.score = "lower/clip_accuracy"


def _at_lower(
    term: dict[str, Any], *, share: float = 1.0, **options: Any
) -> ConfigDict:
    """Returns a term at the lower level, with a share of its own weight."""
    below = {key: value for key, value in term.items() if key != "weight"}
    return component(
        "fmalign_jax.objectives.at_lower.AtLower",
        weight=share * term["weight"],
        term=below,
        **options,
    )


def _pairs(
    modalities: tuple[str, ...], *, own: float, other: float
) -> dict[str, dict[str, float]]:
    """Returns a table [student][teacher] without direction."""
    return {s: {t: own if s == t else other for t in modalities} for s in modalities}


SYSTEMS: dict[str, Change] = {
    "clip": clip,
    "micu": micu,
    "onellm": onellm,
    "qformer": qformer,
    "alignvsr": alignvsr,
    "distilled": distilled,
    "temporal": temporal,
    "clmlf_pairs": clmlf_pairs,
    "indexed": indexed,
    "hdcid": hdcid,
    "fcid": fcid,
}
"""Without labels: what the study compares."""

SUPERVISED: dict[str, Change] = {"clmlf": clmlf, "clmlf_dropout": clmlf_dropout}
"""Shaped by labels of what is tested: compared with the oracle, never as zero-shot."""

CONTROLS: dict[str, Change] = {"fused_control": fused_control}
"""No systems to compare: they break a rule, so that it shows what the rule is for."""
