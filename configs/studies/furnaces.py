"""Study: what each part of the recipe contributes, on unseen simulated furnaces.

Command   python scripts/study.py configs/studies/furnaces.py \\
              --out docs/results/furnaces.json

Data      Simulated, 22 recordings of 50 min of as many furnaces: 10 train, 2 validate,
  10 test. They are written to DATA on first use. The folds are profiles of the
  simulator (docs/simulator.md), no rotation: `default`; `hard`; `wide_leads`, in which
  every episode has a lead of its own, 180 to 300 s; and two controls,
  `no_precursor`, in which the current predicts nothing, and `lead_0`, in which it
  shows the state at the same time as the video and is read at that time.

Purpose   Two classes. The current is read 240 s before the video, the simulator's
  lead; `read_at_lead_0` reads it at the wrong moment.

Expected time   On two idle CPU cores 3 min a run with its evaluations, three times that
  with 12 epochs; the references of `recipe` take a minute more.
"""

import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import (
    Change,
    component,
    evaluation_config,
    load_file,
    read_lead_range,
    set_teacher,
    setting,
    unchanged,
    without,
)

CONFIGS = pathlib.Path(__file__).parents[1]
DATA = "data/simulated"
FOLDS = ("default", "hard", "wide_leads", "no_precursor", "lead_0")
SEEDS = (0, 1, 2)
EPOCHS = 6.0  # 480 steps


def train_config(fold: str, data: str) -> ConfigDict:
    """Returns the recipe for a profile."""
    config = load_file(CONFIGS / "pretrain.py").get_config()
    config.data.path = data
    config.data.options.update({"profile": fold, "recordings": 22})
    config.data.split.validation = 2 / 22
    config.data.split.test = 10 / 22
    config.data.lead_s = 0.0 if fold == "lead_0" else 240.0
    config.epochs = EPOCHS
    config.eval_every_epochs = 100.0  # at the end alone
    config.checkpoint_every_steps = 100
    config.score = "equal_share"  # chooses nothing, and every variant has it
    return config


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run, on its own splits."""
    return evaluation_config()


def current_teaches(config: ConfigDict) -> None:
    """The recipe of before: the video follows a current that contrasts its windows."""
    set_teacher(config, teacher="current", student="video", back=0.2, pull=1.0)
    config.objectives.canonical.weight = 0.0
    config.codebook.shared.teacher = "current"


def instance_contrast(config: ConfigDict) -> None:
    """The video teaches, shaped by a contrast of its own windows."""
    config.objectives.self_contrast.weight = 1.0
    config.objectives.canonical.weight = 0.0


def slow_contrast(config: ConfigDict) -> None:
    """As `instance_contrast`, but a window's halves are the positives."""
    config.objectives.canonical.weight = 0.0
    config.objectives.slow_contrast = component(
        "fmalign_jax.objectives.slow_contrast.SlowContrast",
        weight=1.0,
        second_views=("video",),
        min_gap_s=60.0,
    )


def swapped_prediction(config: ConfigDict) -> None:
    """The current predicts the video's balanced assignments (SwAV)."""
    config.objectives.canonical.weight = 0.0
    config.objectives.swapped_prediction = component(
        "fmalign_jax.objectives.swapped_prediction.SwappedPrediction",
        weight=1.0,
        second_views=("video",),
        weights={"current": {"video": 1.0}, "video": {"video": 1.0, "current": 0.2}},
    )


def current_contrast(config: ConfigDict) -> None:
    """The video teaches; the current alone contrasts its own windows."""
    current_contrast_and_canonical(config)
    config.objectives.canonical.weight = 0.0


def current_contrast_and_canonical(config: ConfigDict) -> None:
    """As the recipe, and the current contrasts its own windows besides."""
    config.objectives.self_contrast.weight = 1.0
    config.objectives.self_contrast.second_views = ("current",)


def ema_of_both(config: ConfigDict) -> None:
    """A code moves towards both modalities' vectors, whichever chose it."""
    config.codebook.ema_mix = {
        "video": {"video": 0.9, "current": 0.1},
        "current": {"video": 0.7, "current": 0.3},
    }


def ema_of_own(config: ConfigDict) -> None:
    """Both modalities move the codes they chose, each towards its own vectors."""
    config.codebook.ema_mix = {m: {m: 1.0} for m in ("video", "current")}


def two_sided(config: ConfigDict) -> None:
    """A tick sees the later ones too; Cross-CPC predicts 2 to 10 s ahead; two codes."""
    load_file(CONFIGS / "pretrain.py").two_sided(config)


def two_sided_far(config: ConfigDict) -> None:
    """As `two_sided`, but Cross-CPC predicts 12 to 48 s ahead, as in the recipe."""
    ahead = config.objectives.cross_cpc.steps, config.objectives.cross_cpc.stride
    two_sided(config)
    config.objectives.cross_cpc.steps, config.objectives.cross_cpc.stride = ahead


def lead_range(config: ConfigDict) -> None:
    """The current is read over 90 s around its lead, with weights that are learnt."""
    read_lead_range(config, config.data.lead_s - 90.0, config.data.lead_s + 90.0)


def lead_range_mean(config: ConfigDict) -> None:
    """The same with equal weights."""
    lead_s = config.data.lead_s
    read_lead_range(config, lead_s - 90.0, lead_s + 90.0, weights="mean")


def unaugmented(config: ConfigDict) -> None:
    """Neither light, palette nor time is varied."""
    config.augment.video = ConfigDict({})
    config.augment.current = ConfigDict({})
    config.time_warp = ConfigDict({"stretch": 0.0, "shift": 0.0})


def patches(config: ConfigDict) -> None:
    """What is specific of the video goes through patches, without convolutions."""
    load_file(CONFIGS / "pretrain.py").patches(config)


def patches_in_the_stem(config: ConfigDict) -> None:
    """The same, and the stem has no convolution either."""
    patches(config)
    config.model.modalities.video.stem.overlap = False


VARIANTS: dict[str, Change] = {
    "recipe": unchanged,
    "read_at_lead_0": setting("data.lead_s", 0.0),
    "epochs_4": setting("epochs", 4.0),
    "epochs_12": setting("epochs", 12.0),
    "batches_from_all": setting("data.batch_from", "all"),
    "current_teaches": current_teaches,
    "instance_contrast": instance_contrast,
    "slow_contrast": slow_contrast,
    "swapped_prediction": swapped_prediction,
    "current_contrast": current_contrast,
    "current_contrast_and_canonical": current_contrast_and_canonical,
    "ema_of_both": ema_of_both,
    "ema_of_own": ema_of_own,
    "patches": patches,
    "patches_in_the_stem": patches_in_the_stem,
    "two_sided": two_sided,
    "two_sided_far": two_sided_far,
    "lead_range": lead_range,
    "lead_range_mean": lead_range_mean,
    "unskipped": setting("codebook.shared.skip_ticks", 0),
    "codes_2_shared": setting("codebook.shared.codes", 2),
    "codes_4_shared": setting("codebook.shared.codes", 4),
    "nearest_shared_code": setting("codebook.shared.student_weight", 0.0),
    "batch_16": setting("batch_size", 16),
    "unaugmented": unaugmented,
    "without_cross_cpc": without("cross_cpc"),
    "without_club": without("club"),
    "without_window_contrast": without("window_contrast"),
    "without_canonical": without("canonical"),
    "without_code_prediction": without("code_prediction"),
    "without_decoders": without("reconstruction"),
    "without_weight_decay": setting("optimizer.weight_decay", 0.0),
    "codes_20": setting("codebook.codes", 20),
    "codes_400": setting("codebook.codes", 400),
    "phase_layer_norm": setting("model.modalities.current.stem.phase_layer_norm", True),
}
