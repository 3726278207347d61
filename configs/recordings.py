"""Pre-training on your own recordings: neutral .npz files, or video files with CSV.

Command   python -m fmalign_jax.train --config configs/recordings.py[:clips] \\
              --config.data.path='recordings/*.npz'

Variants
  sliding   the default: windows of 2 s slide over recordings or clips
  clips     each clip is one window of `window_ticks` equal ticks

Purpose   Set tick_s and samples_per_tick to the rates of your sensor, and lead_s to the
  lead of the sensor over the video, 0 when they show the same thing at the same time.
  The sensor is the teacher. For furnaces: configs/pretrain.py:recordings.

Expected time   On two CPU cores that another run shared: `sliding` 7 min 30 s for 760
  steps, `clips` 9 to 11 min for 402.

Result   `sliding`, one seed each, on unseen recordings or clips; chance of the
  accuracy is 0.03 (UTD-MHAD, batches of 32) and 0.05 (a batch of 22):
                          UTD-MHAD, 3 people train    a humanoid robot, 10 clips
      steps               760                         150
      CPC accuracy between video and sensor
                          0.173                       0.655
      token agreement     0.149 (chance 0.008)        0.316 (chance 0.038)
      equal share         0.164                       0.318
      perplexity v / s    47 / 61                     18 / 21
  All rise to the end of the run (the robot's agreement after step 105 no more). In
  training the accuracy on UTD-MHAD reaches 0.66: three people are few to learn from.

  `clips` on UTD-MHAD, 27 actions, six unseen people, one seed each, 402 steps, with
  the shared level (docs/shared_codes.md): head video -> sensor 0.742, sensor -> video
  0.563, sensor -> sensor 0.802; by code alone, video -> sensor 0.699; chance 0.037.
  Ablations, with heads on code vectors: docs/results.md.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import (
    component,
    default_config,
    set_teacher,
    shared_level,
    unchanged,
)


def get_config(variant: str = "sliding") -> ConfigDict:
    variants = {"sliding": unchanged, "clips": clips}
    if variant not in variants:
        raise ValueError(
            f"configs/recordings.py has the variants {', '.join(variants)}; got "
            f"{variant!r}; choose one of them"
        )
    config = default_config()
    config.epochs = 10.0
    config.data.source = "fmalign_jax.data.recordings.RecordingFiles"
    config.data.path = "recordings/*.npz"
    config.data.lead_s = 0.0
    config.data.tick_s = 0.1
    config.data.window_ticks = 20
    config.data.stride_ticks = 2
    config.data.eval_stride_ticks = 10
    config.data.samples_per_tick.current = 5
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 0.05
    config.time_warp = ConfigDict({"stretch": 0.15, "shift": 0.05})
    config.augment = ConfigDict(
        {
            # No flip: it would turn a left hand into a right one.
            "video": {"crop": 4, "brightness": 0.15, "scale": 0.1},
            "current": {"scale": 0.1, "mix": 0.1, "offset": 0.1, "jitter": 0.05},
        }
    )
    # Where something moves is more informative here than on a furnace's shell.
    video = config.model.modalities.video
    video.stem.differences = True
    video.pool = component("fmalign_jax.models.encoders.FlattenPool", features=128)
    # The sensor generalises to unseen recordings, and the video follows it.
    set_teacher(config, teacher="current", student="video")
    variants[variant](config)
    return config


def clips(config: ConfigDict) -> None:
    config.data.windows = "clip"
    config.data.window_ticks = 16
    config.data.samples_per_tick.current = 8
    config.batch_size = 64
    config.epochs = 67.0
    config.eval_every_epochs = 10.0
    # Chosen on a person who neither trains nor is tested (docs/shared_codes.md): 27
    # actions share two dozen directions, and change within a clip.
    config.codebook.shared = shared_level(
        teacher="current", codes=64, directions=24, segments=4, ridge=0.003
    )
