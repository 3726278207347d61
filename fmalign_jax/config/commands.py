"""The configurations of commands other than training: every key, with its meaning.

`sweep_config` trains many runs together; the others say what is done with a run.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def evaluation_config() -> ConfigDict:
    """Returns how a pre-trained run is evaluated with labels: zero-shot transfer."""
    return ConfigDict(
        {
            "checkpoint": "",  # folder of the run
            "step": "best",  # or "latest", or the number of a checkpoint
            "source": "video",  # the head is trained on this modality's codes
            "target": "current",  # and applied unchanged to this one's
            # Other recordings than the run's own splits: globs, a folder in layout V2,
            # or a prepared data set. Empty: the run's own split.
            "head_data": "",
            "validation_data": "",
            "test_data": "",
            # "shared": what the modalities share; "codes": the code vectors of ticks;
            # "semantic": before quantisation. Empty: the first of these that a run has.
            "features": "",
            # Features per modality and without labels: by the "head" split; every
            # "recording" by itself, which takes some minutes of it; or "none".
            "standardise": "head",
            # Which channels of the code vectors a head sees, if it sees code vectors.
            "channels": {
                # "all"; "toc", those on which the codes lie apart; or, to compare with:
                # "random", "variance", "worst" and "pca" (principal components)
                "kind": "all",
                # How many; of several numbers the one that does best within the head
                # split. Empty: seven shares of all, from a quarter to all.
                "keep": (),
                # toc: of top + bottom channels so many are the best, and the worst
                "top": 1,
                "bottom": 0,
                "share": 0.7,  # of likeness in what is best; variance has the rest
            },
            # "paired": each recording's target scores are moved and scaled to agree
            # with what the head says of its own source, without labels; or "none".
            "calibrate": "none",
            "head": {
                # or "linear", "prototypes", "episodic", "neighbours"
                "kind": "logistic",
                "pooling": "mean",  # over the ticks of a window; or "max", "last"
                # prototypes, episodic: one a "class", or one a class and "recording"
                "per": "class",
                # Of several values the one that does best within the head split.
                # logistic; empty: 0.005 on shared features, which are few and each
                # of them shared, 0.2 on others
                "l2": (),
                "weight_decay": (1e-3,),  # linear
                "neighbours": (5,),  # neighbours
                "steps": 300,  # linear, of Adam
                "batch_size": 128,  # linear
                "learning_rate": 2e-3,  # linear
                "balanced": False,  # whether every class weighs the same in the loss
            },
            # The same head on so many draws of encoders that were not pre-trained: one
            # alone may give anything between 0.3 and 0.7. 0: none.
            "random_encoders": 8,
            # Which current belongs to which video, within a recording: also said?
            "retrieval": False,
            # Heads with 1 to 50 labelled windows of each class: also said?
            "few_shot": False,
            # Where spells of the second of two classes begin and end: also said?
            "localisation": False,
            # So many classes, drawn at random, are known to a head that is tested on
            # all: does it know what it was never shown? 0: not said.
            "open_set": {"known": 0},
            "oracle_epochs": 10,  # of the target's encoder with its labels; 0: none
            # Trained with the labels of the head split and reported beside the oracle:
            # by name what `supervised.train_classifier` takes.
            "classifiers": {},
            "bootstrap_draws": 1000,  # for the intervals
            "seed": 0,
        }
    )


def early_warning_config() -> ConfigDict:
    """Returns how an alarm on the current alone is made from a run, and compared."""
    config = evaluation_config()
    del config.random_encoders, config.retrieval, config.channels, config.few_shot
    del config.classifiers, config.localisation, config.open_set
    config.update(
        {
            "abnormal": "",  # class to be warned of; empty: the second of two
            # Which score the alarm file gets: "model", the head on codes of the video
            # applied to those of the current; or "taught", a head on how the current
            # fluctuates, fitted to what the first says of the video a lead later.
            # Empty: "taught", if the video of the head split has both classes and it
            # detects at least 0.9 of what "model" detects on validation.
            "alarm": "",
            "false_alarms_per_hour": 0.25,  # budget, on validation
            # An alarm may differ from the lead by so much: leads differ from episode
            # to episode, and half a window of blur.
            "spread_s": 45.0,
            "merge_gap_s": 20.0,  # visible episodes no further apart are one
            "min_spell_s": 20.0,  # shorter ones are not counted
            # Of these and of all levels the best on validation: how much of the end of
            # the window the head is shown, and how long the score must stay above the
            # level that raises the alarm.
            "recent_s": (16.0, 30.0, 60.0),
            "raise_after_s": (0.0, 10.0, 20.0, 40.0),
            "clear_after_s": 20.0,  # and below the level that clears it
            "hysteresis": 0.1,  # share of the validation scores between the two levels
            "levels": 50,  # how many are tried
            "baselines": True,  # rolling deviation and change of the current, CUSUM
            "baseline_lengths_s": (30.0, 60.0, 120.0),  # the best on validation
            "rows": 32,  # windows that the exported program takes at once
            "signing_key": "",  # PEM of an Ed25519 private key; empty: not signed
            "onnx": False,  # write the alarm as alarm.onnx too?
        }
    )
    return config


def sweep_config(run: ConfigDict) -> ConfigDict:
    """Returns a sweep of a run's config that varies nothing yet.

    Args:
      run: as from `default_config`.
    """
    return ConfigDict(
        {
            "run": run,
            # By setting of `run`, the values to train: every combination is a member.
            # Without values it stays as `run` has it.
            "vary": {
                "seed": (),
                "data": {"lead_s": ()},
                "optimizer": {
                    "learning_rate": (),
                    "critic_learning_rate": (),
                    "weight_decay": (),
                },
                "objectives": {name: {"weight": ()} for name in run.objectives},
            },
        }
    )


_LEAD_INDICATORS = (
    "canonical",
    "association",
    "centred_cosine",
    "cosine",
    "code_association",
    "code_information",
    "code_agreement",
    "equal_share",
    "info_nce",
    "plain",
    "motion",
)


def lead_config() -> ConfigDict:
    """Returns how the lead of a run's recordings is searched for."""
    return ConfigDict(
        {
            "checkpoint": "",  # folder of the run
            "step": "best",  # or "latest", or the number of a checkpoint
            # Recordings to search in: a glob, a folder in layout V2, or a prepared data
            # set. Empty: those of the run that it was not trained on, else all.
            "recordings": "",
            "least_lead_s": 0.0,  # may be negative
            "most_lead_s": 420.0,
            "stride_ticks": 5,  # between the windows that are encoded, at most
            "indicator": "canonical",  # whose highest point is the estimate
            "evidence": "association",  # whose chance is the verdict
            # An indicator that asks no model: where it is significant, it corrects the
            # model's answer by up to a window, and it alone counts in recordings that
            # the run was trained on. Empty: none.
            "model_free": "motion",
            "model_free_significance": 0.01,  # its chance is below
            "indicators": _LEAD_INDICATORS,
            # Those whose chance is worked out; without, a search is faster.
            "chance_of": _LEAD_INDICATORS,
            "dimensions": 3,  # principal directions that the first two keep
            # Of the stretches of time that are drawn for the intervals; 0: 5 windows.
            "unit_s": 0.0,
            # Around the highest point, for the parabola; 0: a sixth of a window.
            "peak_half_width_s": 0.0,
            # How far an encoder's answer to a change may lie from where a person sees
            # it, in windows; added to the intervals on either side.
            "response_windows": 0.25,
            # Where the recordings of the training are labelled: how late the encoder of
            # the reference responds to what is labelled is measured there, and taken
            # off the model's answer.
            "correct_response": True,
            # Search for the lead to the labels of these recordings, not to the video.
            "labels": False,
            "bootstrap_draws": 1000,  # for the intervals
            "null_draws": 100,  # wrong pairings, for the verdict
            # "No lead found" where the chance is not below: 0.04 of unrelated signals
            # then have one (docs/results/lead.md).
            "significance": 0.04,
            "seed": 0,
        }
    )
