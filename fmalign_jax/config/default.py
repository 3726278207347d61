"""The default configuration of a run: every key a config may set, with its meaning.

The files in configs/ start from here and change what their experiment needs. A
component (data source, encoder part, objective) is named by `name`, the dotted path of
its class; the keys beside `name` are its keyword arguments. What the other commands can
be told is in `config.commands`.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def component(name: str, **options: object) -> ConfigDict:
    """Returns a config entry: a class by its dotted path, and its arguments."""
    return ConfigDict({"name": name, **options})


def default_config() -> ConfigDict:
    """Returns the furnace model on simulated furnaces, sized for two CPU cores."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32  # windows, over all devices together
    config.epochs = 10.0
    config.max_steps = 0  # stop after so many steps; 0: no limit but `epochs`
    config.compute_dtype = "float32"  # or "bfloat16"; quantiser and losses stay float32

    config.standardise_projections = True  # at the start, from the first batch

    config.log_every_steps = 10
    # Where values go besides metrics.jsonl: "tensorboard", "wandb", "mlflow", or a
    # class of one's own by its dotted path (`run.loggers`).
    config.loggers = ("tensorboard",)
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 100
    # Steps in one call of the compiled program, without the host between them; for
    # small models. A divisor of log_every_steps and checkpoint_every_steps.
    config.steps_per_dispatch = 1
    # Label-free validation score that picks the best; "-loss": lower is better.
    config.score = "cpc_accuracy"
    # At every validation also class means, fitted on labelled training windows of one
    # modality and tried on the others: `zero_shot/video->current`, also as `score`.
    config.labelled_validation = False

    config.data = data_config()
    config.time_warp = ConfigDict({"stretch": 0.0, "shift": 0.0})
    config.augment = ConfigDict(
        {
            "video": {"flip": 0.5, "crop": 4, "brightness": 0.2},
            "current": {"jitter": 0.05, "scale": 0.05, "mask": 0.05},
        }
    )
    config.model = model_config()
    config.codebook = codebook_config()
    config.objectives = objectives_config()
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,  # the paper's 4e-4 suits its larger model
            "schedule": "cosine",  # or "constant", "halving" (at the epochs below)
            "warmup_steps": 50,
            "halve_at_epochs": (10, 20, 30),
            "clip_norm": 0.5,
            "weight_decay": 0.0,  # of kernels, decoupled from the gradient (AdamW)
            "epsilon": 1e-8,  # of both Adams
            "critic_learning_rate": 1e-3,
            "critic_steps": 5,  # likelihood steps of the critics in every step
            "shard_state": False,  # each device keeps its part of Adam's memory
        }
    )
    return config


def data_config() -> ConfigDict:
    """Returns where recordings come from and how they become windows."""
    return ConfigDict(
        {
            "source": "fmalign_jax.data.simulator.SimulatedFurnaces",
            "path": "data/simulated",  # a folder, or a glob for files
            "options": {},  # further arguments of the source
            "prepared_dir": "data/prepared",  # where prepared data sets are cached
            # For croissant.json, which `prepare` writes: what only the owner of the
            # data knows. Empty: left out.
            "about": {
                "license": "",
                "cite_as": "",
                "url": "",
                "creator": "",
                "date_published": "",
                "version": "",
            },
            "reference_stream": "video",  # its clock and labels are the window's
            "leading_stream": "current",  # read lead_s EARLIER than the reference
            "lead_s": 0.0,
            # Leads at which every window must be readable too, so that runs at any of
            # them see the same video; a sweep sets it.
            "other_leads_s": (),
            # Read each training window at one of all these leads, drawn anew in every
            # step: no lead is preferred, and the search shows which fits best.
            "draw_lead": False,
            # Least and most lead: each window reads the leading stream over all of
            # them, whole windows wide, by a stem that does (encoders.LagStem).
            "lead_range_s": (),
            # A control: each training recording has the leading stream of another one,
            # so that nothing can be learnt that modalities share.
            "shuffle_partners": False,
            "windows": "sliding",  # or "clip": a clip is one window of equal ticks
            "tick_s": 2.0,
            "window_ticks": 30,
            "stride_ticks": 5,  # between training windows
            "eval_stride_ticks": 30,  # between evaluation windows
            "samples_per_tick": {"video": 1, "current": 4},
            "max_gap_s": 0.0,  # a tick without a sample this near is left out; 0: auto
            "split": {
                "by": "auto",  # "recording", "clip", "block", "given"
                "validation": 0.2,  # share of recordings, clips or time
                "test": 0.0,
                "seed": 0,
                "guard_s": 0.0,  # gap between splits of one recording; 0: auto
                "validation_recordings": (),  # by name (* allowed), not share
                "test_recordings": (),
            },
            # "recording": the windows of a batch come from one recording, so that the
            # contrast between them cannot be won by telling the recordings apart.
            "batch_from": "all",
            # Keep what training and validation read on every device, and send window
            # numbers instead of windows.
            "resident": False,
            "read_threads": 2,
            "prefetch_batches": 2,
        }
    )


def model_config() -> ConfigDict:
    """Returns the encoders of the small furnace model."""
    encoders = "fmalign_jax.models.encoders."
    return ConfigDict(
        {
            "name": "fmalign_jax.systems.cmg.Cmg",  # the system: its class
            "width": 128,  # D, of semantic features and codes
            "transformer": {
                "layers": 2,
                "heads": 4,
                "ffn": 256,
                "dropout": 0.1,
                "positions": "none",  # as in the paper; or "sinusoidal", "learned"
                "causal": False,  # as in the paper; True: no tick sees a later one
            },
            "modalities": {
                "video": {
                    "stem": component(
                        encoders + "FrameStem", features=(64, 64), strides=(8, 2)
                    ),
                    "pool": component(encoders + "AttentivePool"),
                    "specific": component(
                        encoders + "ConvSpecific", features=(64,), residual=32
                    ),
                },
                "current": {
                    "stem": component(encoders + "SensorStem", features=(64, 128)),
                    "pool": None,
                    "specific": component(encoders + "DenseSpecific", features=64),
                },
            },
        }
    )


SENSOR_STEM = "fmalign_jax.models.encoders.SensorStem"
LAG_STEM = "fmalign_jax.models.encoders.LagStem"


def read_lead_range(
    config: ConfigDict, least_s: float, most_s: float, *, weights: str = "soft"
) -> None:
    """Lets every window read the leading stream over a range of leads.

    Args:
      config: as from `default_config`, changed in place.
      least_s: shortest lead.
      most_s: longest; the range is a whole number of windows wide.
      weights: of `LagStem`, "soft" or "mean".

    Raises:
      ValueError: the leading stream has another stem than `SensorStem`.
    """
    data = config.data
    data.lead_range_s = (least_s, most_s)
    data.lead_s = (least_s + most_s) / 2
    modality = config.model.modalities[data.leading_stream]
    options = modality.stem.to_dict()
    replaced = options.pop("name")
    if replaced != SENSOR_STEM or options.pop("phase_layer_norm", False):
        raise ValueError(
            f"a range of leads is read in place of {SENSOR_STEM} without "
            f"phase_layer_norm; got {modality.stem.to_dict()} for "
            f"{data.leading_stream!r}; give model.modalities that stem first"
        )
    samples = data.samples_per_tick[data.leading_stream]
    modality.stem = component(
        LAG_STEM, samples_per_tick=samples, weights=weights, **options
    )


def codebook_config() -> ConfigDict:
    """Returns the shared codebook, directed: the current learns from the video."""
    return ConfigDict(
        {
            "codes": 128,  # M
            # The paper's 0.99 and 300 suit runs of 10 000 steps and more. In a short
            # run they leave one code alive, the commitment pulls all features to it,
            # and both collapse.
            "decay": 0.95,
            # ema_mix.current.video: share of the video's vector in what a code that
            # the current chose moves to. Rows sum to 1; a modality without a row moves
            # no code.
            "ema_mix": {
                "video": {"video": 0.9, "current": 0.1},
                "current": {"video": 0.7, "current": 0.3},
            },
            "initialisation": "kmeans",  # or "sample"
            "idle_steps": 20,  # a code unused for so long is re-seeded
            "idle_rule": "all",  # unused by "all" modalities, or by "any"
            "revival_noise": 0.01,  # in standard deviations of the features
            # A level of a few codes that the modalities share, see `shared_level`.
            "shared": None,
        }
    )


def shared_level(
    *,
    teacher: str,
    codes: int = 2,
    directions: int = 1,
    segments: int = 1,
    skip_ticks: int = 0,
    ridge: float = 0.05,
    student_weight: float = 0.0,
) -> ConfigDict:
    """Returns the entry ``codebook.shared``, fitted in closed form without labels.

    Args:
      teacher: the modality on which the codes are placed, or that leads where they are.
      codes: K. More describe a window better and agree less often.
      directions: r, how many things the modalities share; a state is one.
      segments: S, equal parts of a window with a code each; divides the ticks that are
        looked at.
      skip_ticks: how many ticks at the begin of a window are not looked at, where a
        causal encoder has seen too little to tell.
      ridge: share of the largest variance that is added to all.
      student_weight: lambda, of the other modalities where pairs get one index, which
        each modality then learns to tell. 0: the codes are the teacher's alone.
    """
    return ConfigDict(
        {
            "teacher": teacher,
            "codes": codes,
            "directions": directions,
            "segments": segments,
            "skip_ticks": skip_ticks,
            "ridge": ridge,
            "student_weight": student_weight,
        }
    )


LEARNS_FROM = {
    "video": {"current": 0.2},
    "current": {"video": 1.0},
}
"""How much of a cross-modal gradient reaches the student (row) from the teacher."""


def objectives_config() -> ConfigDict:
    """Returns the terms of the loss; a weight of 0 leaves a term out."""
    objectives = "fmalign_jax.objectives."
    decoders = "fmalign_jax.models.decoders."
    config = ConfigDict()
    config.reconstruction = component(
        objectives + "reconstruction.Reconstruction",
        weight=1.0,
        decoders={
            "video": component(decoders + "FrameDecoder", target_size=16),
            "current": component(decoders + "DenseDecoder"),
        },
    )
    config.commitment = component(
        objectives + "commitment.Commitment",
        weight=1.0,
        # beta[student][teacher]: pull of the teacher's code vector on the student
        weights={
            "video": {"video": 0.25, "current": 0.05},
            "current": {"video": 0.25, "current": 0.25},
        },
    )
    config.code_matching = component(
        objectives + "code_matching.CodeMatching", weight=0.5, learns_from=LEARNS_FROM
    )
    config.cross_cpc = component(
        objectives + "cross_cpc.CrossCpc",
        weight=1.0,
        steps=5,  # K
        stride=1,  # ticks from one prediction to the next
        starts="all",  # or "random": one start a step, as in the paper
        width=128,
        # weights[context][target]
        weights={
            "video": {"video": 0.1, "current": 1.0},
            "current": {"video": 1.0, "current": 0.1},
        },
        learns_from=LEARNS_FROM,
    )
    config.window_contrast = component(
        objectives + "cwcl.Cwcl",
        weight=1.0,
        stronger="video",
        weaker="current",
        temperature=0.1,
        weight_temperature=0.01,
        learns_from=LEARNS_FROM,
    )
    # Weight 1, the paper's, collapses the semantic features of learned stems: a
    # constant z has no information to minimise.
    config.club = component(objectives + "club.Club", weight=0.01)
    return config


def set_teacher(
    config: ConfigDict,
    *,
    teacher: str,
    student: str,
    back: float = 0.0,
    pull: float = 0.25,
) -> None:
    """Lets one modality learn by contrast with itself, and the other follow it.

    Args:
      config: as from `default_config`, changed in place.
      teacher: the modality that carries over best to unseen recordings.
      student: the other one.
      back: share of the cross-modal gradients that reaches the teacher.
      pull: commitment of the student to the teacher's code vectors.
    """
    objectives = config.objectives
    for term in ("code_matching", "cross_cpc", "window_contrast"):
        objectives[term].learns_from = {
            student: {teacher: 1.0},
            teacher: {student: back},
        }
    objectives.window_contrast.stronger = teacher
    objectives.window_contrast.weaker = student
    objectives.self_contrast = component(
        "fmalign_jax.objectives.self_contrast.SelfContrast",
        weight=1.0,
        second_views=(teacher,),
    )
    objectives.code_prediction = component(
        "fmalign_jax.objectives.code_prediction.CodePrediction",
        weight=0.5,
        weights={student: {teacher: 1.0}},
    )
    objectives.commitment.weights = {
        student: {student: 0.25, teacher: pull},
        teacher: {teacher: 0.25},
    }
    # The student finds its place among the teacher's codes: if it moved those that it
    # chose, both would end on codes of their own.
    config.codebook.ema_mix = {teacher: {teacher: 1.0}}
