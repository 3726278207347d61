"""Study: what each part of the recipe contributes, on UTD-MHAD, unseen people.

Command   python scripts/study.py configs/studies/utd_mhad.py \\
              --out docs/results/utd_mhad.json --data FOLDER

Data      UTD-MHAD (C. Chen, R. Jafari, N. Kehtarnavaz, ICIP 2015), depth video and
  motion sensor, as utd_mhad_s1.npz to utd_mhad_s6.npz, one file a person, in the form
  of docs/recordings.md with each clip's action as its label.

Purpose   27 actions. Four people train, without labels; a head is fitted on their
  labelled video and tested on the sensor of a person who was in neither. The validation
  person is there to look at while settings are chosen; `test` is reported.

Expected time   On two idle CPU cores 3 min a run with its evaluations; the references
  of `recipe` take a minute more.
"""

import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import (
    Change,
    component,
    evaluation_config,
    load_file,
    set_teacher,
    setting,
    unchanged,
    without,
)

CONFIGS = pathlib.Path(__file__).parents[1]
DATA = "data/utd_mhad"
PEOPLE = (1, 2, 3, 4, 5, 6)
FOLDS = {f"s{test}": test for test in (6, 1, 2, 3, 4, 5)}
SEEDS = (0, 1, 2)


def people(fold: str) -> tuple[list[int], int, int]:
    """Returns who trains, who validates (the one before the test), who tests."""
    test = FOLDS[fold]
    validation = (test - 2) % len(PEOPLE) + 1
    return [p for p in PEOPLE if p not in (validation, test)], validation, test


def files(data: str, chosen: list[int]) -> str:
    """Returns a glob of some people's files."""
    return f"{data}/utd_mhad_s[{''.join(map(str, chosen))}].npz"


def train_config(fold: str, data: str) -> ConfigDict:
    """Returns the recipe for a fold."""
    training, validation, _ = people(fold)
    config = load_file(CONFIGS / "recordings.py").get_config("clips")
    config.data.path = files(data, [*training, validation])
    config.data.split.validation_recordings = (f"utd_mhad_s{validation}",)
    config.eval_every_epochs = 67.0  # at the end alone
    config.score = "equal_share"  # chooses nothing, and every variant has it
    return config


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run."""
    training, validation, test = people(fold)
    config = evaluation_config()
    config.head_data = files(data, training)
    config.validation_data = files(data, [validation])
    config.test_data = files(data, [test])
    config.oracle_epochs = 20
    return config


def never_revived(config: ConfigDict) -> None:
    """Codes that fall out of use stay so."""
    config.codebook.idle_steps = 10**9


def own_codes_only(config: ConfigDict) -> None:
    """No multi-modal EMA: a code moves to those who chose it."""
    config.codebook.ema_mix = {m: {m: 1.0} for m in ("video", "current")}


def unaugmented(modality: str) -> Change:
    """Takes a modality's augmentation away; the time warp of both stays."""

    def change(config: ConfigDict) -> None:
        config.augment[modality] = ConfigDict({})

    return change


def unwarped(config: ConfigDict) -> None:
    """Every window at its own speed and place."""
    config.time_warp = ConfigDict({"stretch": 0.0, "shift": 0.0})


def symmetric(config: ConfigDict) -> None:
    """Each learns from the other; the sensor still contrasts with itself."""
    both = {"video": {"current": 1.0}, "current": {"video": 1.0}}
    for term in ("code_matching", "cross_cpc", "window_contrast"):
        config.objectives[term].learns_from = both
    config.objectives.commitment.weights = {
        "video": {"video": 0.25, "current": 0.125},
        "current": {"video": 0.125, "current": 0.25},
    }
    config.codebook.ema_mix = {
        "video": {"video": 0.5, "current": 0.5},
        "current": {"video": 0.5, "current": 0.5},
    }


def video_teaches(config: ConfigDict) -> None:
    """The direction of the publication: the sensor follows the video."""
    set_teacher(config, teacher="video", student="current")


def plain_cwcl(config: ConfigDict) -> None:
    """The published weights, (cos + 1) / 2."""
    config.objectives.window_contrast.centre_weights = False
    config.objectives.window_contrast.weight_temperature = None


def triplet(config: ConfigDict) -> None:
    """A triplet term in addition to the contrasts."""
    config.objectives.triplet = component(
        "fmalign_jax.objectives.triplet.Triplet",
        weight=0.1,
        anchor="video",
        positive="current",
        min_gap_s=0.0,
        learns_from={"video": {"current": 1.0}},
    )


def transductive(config: ConfigDict) -> None:
    """The person tested trains too, without labels; the one who validates does not."""
    data = pathlib.Path(config.data.path).parent
    config.data.path = files(str(data), list(PEOPLE))


VARIANTS: dict[str, Change] = {
    "recipe": unchanged,
    "transductive": transductive,
    "without_cross_cpc": without("cross_cpc"),
    "without_club": without("club"),
    "without_cross_cpc_and_club": without("cross_cpc", "club"),
    "without_window_contrast": without("window_contrast"),
    "without_any_cross_contrast": without("cross_cpc", "window_contrast"),
    "without_self_contrast": without("self_contrast"),
    "without_code_prediction": without("code_prediction"),
    "without_code_matching": without("code_matching"),
    "without_multimodal_ema": own_codes_only,
    "without_revival": never_revived,
    "without_decoders": without("reconstruction"),
    "without_decoders_and_club": without("reconstruction", "club"),
    "without_weight_decay": setting("optimizer.weight_decay", 0.0),
    "without_time_warp": unwarped,
    "without_sensor_augmentation": unaugmented("current"),
    "without_video_augmentation": unaugmented("video"),
    "symmetric": symmetric,
    "video_teaches": video_teaches,
    "k_1": setting("objectives.cross_cpc.steps", 1),
    "k_2": setting("objectives.cross_cpc.steps", 2),
    "k_3": setting("objectives.cross_cpc.steps", 3),
    "k_8": setting("objectives.cross_cpc.steps", 8),
    "codes_20": setting("codebook.codes", 20),
    "codes_50": setting("codebook.codes", 50),
    "codes_100": setting("codebook.codes", 100),
    "codes_200": setting("codebook.codes", 200),
    "codes_400": setting("codebook.codes", 400),
    "codes_800": setting("codebook.codes", 800),
    "sampled_codes": setting("codebook.initialisation", "sample"),
    "plain_cwcl": plain_cwcl,
    "infonce": setting("objectives.window_contrast.weight_temperature", 1e-4),
    "triplet": triplet,
    "sinusoidal_positions": setting("model.transformer.positions", "sinusoidal"),
    "learned_positions": setting("model.transformer.positions", "learned"),
    "phase_layer_norm": setting("model.modalities.current.stem.phase_layer_norm", True),
}
