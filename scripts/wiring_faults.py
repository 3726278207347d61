"""Plants faults between a config and what it should do, and asks the tests for them.

    python scripts/wiring_faults.py    # all, about five minutes; --list, --only NAME

Each fault is planted alone, in a copy of the package, and the test named with it is run
there: one of its assertions must fail. The exit status is 1 when a fault survives, or
no longer fits: its text is gone, or the test breaks before it asserts. Run it by hand
or weekly; it is too slow for every check, in which `tests/test_wiring_faults.py` checks
the list against the code.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("fmalign_jax", "tests", "configs", "scripts", "pyproject.toml")
CAUGHT, SURVIVED, UNFIT = "caught", "SURVIVED", "no longer fits"
ASSERTION = re.compile(r":\d+: (AssertionError|assert )")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake in the code, and the test that catches it."""

    name: str  # for the command line
    file: str  # where it is planted
    text: str  # what the code says there, exactly once
    planted: str  # what it says instead
    test: str  # node id of the test that must fail


_STEP, _STATE = "fmalign_jax/training/step.py", "fmalign_jax/training/state.py"
_CMG, _SETUP = "fmalign_jax/systems/cmg.py", "fmalign_jax/training/setup.py"
_TRAIN, _ORACLE = "fmalign_jax/train.py", "fmalign_jax/evaluation/supervised.py"
_NUMBERS = "tests/test_numbers.py::test_"
_WIRED = "tests/test_step_wiring.py::test_"
_STEPPED = "tests/test_step.py::test_"
_RUN = "tests/test_train.py::test_"
_JUDGED = "tests/test_supervised.py::test_"
_WARNED = "tests/test_comparison.py::test_"
_LEAD = "tests/test_lead_time.py::test_"
_SHARED = "tests/test_shared_level.py::test_"
_WARNING = "fmalign_jax/early_warning.py"
_SIGNED = "tests/test_early_warning.py::test_the_alarm_is_signed_where_a_key_is_given"
_MONITOR = "fmalign_jax/monitor.py"
_SERVED = "tests/test_live_page.py::test_"
_ONNX = "tests/test_early_warning.py::test_the_alarm_is_written_as_onnx_where_asked"
_KEPT = "tests/test_evaluate.py::test_heads_read_the_channels_that_are_kept"
_LABELLED = "tests/test_evaluate.py::test_a_system_that_uses_labels_"
_LOCATED = "tests/test_evaluate.py::test_spells_are_located_if_asked_for"
_LOGGED = "tests/test_loggers.py::test_"
_CHECKED = "tests/test_check.py::test_"
_SETTING = _SHARED + "every_setting_has_its_effect"

# One fault takes three lines, not seven.
# fmt: off
FAULTS = (
    Fault("loggers_ignored", "fmalign_jax/run/directory.py",
          "absent | self._settings)", "self._settings | absent)",
          _LOGGED + "a_logger_of_ones_own_gets_what_metrics_jsonl_gets"),
    Fault("loggers_tell_runs_apart", "fmalign_jax/config/saved.py",
          '    "loggers",\n', "",
          _LOGGED
          + "loggers_do_not_tell_runs_apart_and_an_old_run_has_tensorboard"),
    Fault("the_split_is_not_logged", "fmalign_jax/run/directory.py",
          '{f"{split}/{n}": v for n, v in values.items()}', "values",
          _LOGGED + "a_logger_of_ones_own_gets_what_metrics_jsonl_gets"),
    Fault("loggers_are_not_told_of_errors", "fmalign_jax/run/directory.py",
          "failed=error is not None", "failed=False",
          _LOGGED + "an_error_of_the_run_is_told_to_its_loggers"),
    Fault("shared_by_kappa_alone", "fmalign_jax/evaluation/training_summary.py",
          "said = verdict(kappa, nats)", "said = verdict(kappa, 1.0)",
          "tests/test_training_summary.py::"
          "test_a_sentence_says_whether_codes_are_shared"),
    Fault("a_log_drawn_over", "fmalign_jax/progress.py",
          "self._terminal = where.isatty()", "self._terminal = True",
          "tests/test_progress.py::"
          "test_outside_a_terminal_there_is_a_line_every_thirty_seconds"),
    Fault("check_ignores_its_range", "fmalign_jax/check.py",
          "most_s=most_lead_s", "most_s=None", _CHECKED + "a_folder_is_checked"),
    Fault("places_are_the_whole_frame", "fmalign_jax/first_look/association.py",
          "_seen_as(clip, standing[id(clip)])", "_seen_as(clip, clip.reference.plain)",
          _CHECKED + "places_alone_may_show_the_lead"),
    Fault("movements_by_what_stands_out", "fmalign_jax/first_look/association.py",
          "(PLACES, MOTION, PLAIN) if slow else", "(PLACES, MOTION, PLAIN) if 1 else",
          _CHECKED + "the_view_that_counts"),
    Fault("one_view_for_the_chance_of_three", "fmalign_jax/first_look/association.py",
          "len(views) * _chance(views[name])", "_chance(views[name])",
          _CHECKED + "the_view_that_counts"),
    Fault("coarse_of_ticks_alone", "fmalign_jax/systems/fcid.py",
          'if self.coarse == "window":', "if False:",
          "tests/test_fcid.py::test_the_coarse_level_is_one_chain_of_the_means_of_windows"),
    Fault("levels_choose_what_is_trained", _CMG,
          'inputs, semantic, specific, self.vectors(model_state["codebook"]), mask',
          "inputs, semantic, specific, self.code_vectors(model_state), mask",
          "tests/test_hdcid.py::test_levels_change_nothing_in_training"),
    Fault("one_draw_for_two_codebooks", "fmalign_jax/evaluation/channels.py",
          "(*seed, number) if number else seed,", "seed,",
          "tests/test_channels.py::test_of_two_codebooks_each_has_its_own_choice"),
    Fault("an_alarm_hides_labels", "fmalign_jax/alarm/report.py",
          "level = label_level(run.config)", "level = NO_LABELS",
          "tests/test_early_warning.py::test_a_run_that_labels_shaped_says_so"),
    Fault("second_view_as_recorded", _STEP,
          "augmented = random_view(augment_key)",
          "augmented = preprocess.normalise(*random_view.args[1:])",
          _WIRED + "the_second_view_is_augmented_as_the_first"),
    Fault("numbers_compiled_into_the_step", _STEP,
          "trainer.with_numbers(values), mesh, *arguments", "trainer, mesh, *arguments",
          _NUMBERS + "other_numbers_make_no_other_program"),
    Fault("numbers_compiled_into_the_first_state", "fmalign_jax/training/state.py",
          "own = trainer.with_numbers(values)", "own = trainer",
          _NUMBERS + "other_numbers_make_no_other_program"),
    Fault("the_rate_of_another_config", "fmalign_jax/training/state.py",
          "with_numbers(self.config, known),", "self.config,",
          _NUMBERS + "a_number_that_is_given_is_used"),
    Fault("no_time_warp", _STEP, "time_warp=config.time_warp.to_dict(),",
          "time_warp=dict.fromkeys(config.time_warp, 0.0),",
          _WIRED + "a_step_warps_time_in_both_views"),
    Fault("the_same_draws_in_every_step", _STEP,
          "step_keys(config.seed, state.step, random_streams(trainer))",
          "step_keys(config.seed, 0 * state.step, random_streams(trainer))",
          _WIRED + "two_steps_on_one_batch_draw_other_augmentations"),
    Fault("augmentations_swapped", _STEP, "settings=config.augment.to_dict(),",
          'settings={"video": dict(config.augment.get("current", {}))},',
          _WIRED + "each_modality_is_augmented_by_its_own_settings"),
    Fault("weights_ignored_in_training", _STEP,
          "sum(weights[name] * means[name] for name in means)",
          "sum(means.values())",
          _STEPPED + "the_total_is_the_weighted_sum_of_the_terms"),
    Fault("weights_ignored_in_evaluation", _STEP,
          "sum(trainer.weights[name] * values for name, values in terms.items())",
          "sum(terms.values())",
          _WIRED + "an_evaluation_weighs_the_terms_as_training_does"),
    Fault("dropout_in_evaluation", _STEP, "inputs, batch, train=False",
          'inputs, batch, train=True, rngs={"dropout": jax.random.key(0)}',
          _WIRED + "an_evaluation_neither_augments_nor_drops"),
    Fault("augmentation_in_evaluation", _STEP,
          'inputs = preprocess.normalise(batch["streams"], state.statistics)',
          'inputs = _random_view(trainer.config, batch["streams"], state.statistics, '
          "jax.random.key(0))",
          _WIRED + "an_evaluation_neither_augments_nor_drops"),
    Fault("pixels_moved_after_the_view", "fmalign_jax/training/augment.py",
          "window = apply(window, of_frames=True)", "window = window",
          "tests/test_augment.py::test_all_together_are_what_numpy_makes_of_the_same_draws"),
    Fault("biases_decay", "fmalign_jax/training/state.py", "mask=joined.decays,", "",
          _STEPPED + "kernels_decay_and_biases_do_not"),
    Fault("moments_of_earlier_checkpoints_lost", "fmalign_jax/training/joined.py",
          "lambda moments: join(moments)[0]",
          "lambda moments: jax.tree.map(jnp.zeros_like, join(moments)[0])",
          "tests/test_joined.py::test_a_state_saved_array_by_array_becomes_the_joined_one"),
    Fault("critics_one_after_the_other", "fmalign_jax/models/mlp.py",
          "index if jax.default_backend() == \"cpu\" else 0", "index",
          "tests/test_critics.py::test_networks_side_by_side_are_each_alone"),
    Fault("critic_steps_ignored", _STEP, "length=trainer.config.optimizer.critic_steps",
          "length=1", _STEPPED + "critics_take_their_inner_steps_and_no_others"),
    Fault("decay_ignored", _CMG, 'decay=settings["decay"],', "decay=0.99,",
          _WIRED + "the_codebook_moves_by_the_decay_and_the_mix_of_the_config"),
    Fault("ema_mix_ignored", _CMG, 'ema_mix=settings["ema_mix"],',
          "ema_mix={name: {name: 1.0} for name in semantic},",
          _WIRED + "the_codebook_moves_by_the_decay_and_the_mix_of_the_config"),
    Fault("idle_steps_ignored", _CMG, 'idle_steps=settings["idle_steps"],',
          "idle_steps=20,",
          _WIRED + "codes_are_revived_after_the_idle_steps_of_the_config"),
    Fault("clip_norm_ignored", _STATE,
          "optax.clip_by_global_norm(config.optimizer.clip_norm),",
          "optax.clip_by_global_norm(1e9),",
          "tests/test_cmg_paper.py::test_steps_are_clipped_as_in_the_paper"),
    Fault("critics_at_the_learning_rate", _STATE,
          "config.optimizer.critic_learning_rate, eps=config.optimizer.epsilon",
          "config.optimizer.learning_rate, eps=config.optimizer.epsilon",
          _STEPPED + "critics_have_a_learning_rate_of_their_own"),
    Fault("seed_ignored_at_the_start", _STATE, "jax.random.key(config.seed), 3",
          "jax.random.key(0), 3",
          _WIRED + "parameters_and_codes_start_from_the_seed_of_the_config"),
    Fault("score_of_the_training_values", _TRAIN,
          "score = score_of(values, config.score)",
          'score = run.last("train")[config.score]',
          _RUN + "the_best_checkpoint_has_the_best_score_of_all_validations"),
    Fault("score_ignored", _TRAIN, "score = score_of(values, config.score)",
          'score = score_of(values, "cpc_accuracy")',
          _RUN + "the_best_checkpoint_has_the_best_score_of_all_validations"),
    Fault("validation_once_an_epoch", _SETUP, "epochs = config.eval_every_epochs",
          "epochs = 1.0",
          _RUN + "the_best_checkpoint_has_the_best_score_of_all_validations"),
    Fault("log_every_steps_ignored", _TRAIN, "log = step % config.log_every_steps == 0",
          "log = step % 10 == 0",
          _RUN + "a_run_logs_and_validates_at_the_steps_of_its_config"),
    Fault("checkpoint_every_steps_ignored", _SETUP,
          "save_every=config.checkpoint_every_steps,", "save_every=100,",
          _RUN + "a_run_is_saved_as_often_as_its_config_says"),
    Fault("statistics_of_the_validation", _SETUP,
          "data.store, data.training, list(config.model.modalities)",
          'data.store, data.windows["validation"], list(config.model.modalities)',
          _RUN + "the_statistics_are_those_of_the_training_recordings"),
    Fault("batch_from_ignored", _SETUP,
          "seed=seed,\n        batch_from=config.data.batch_from,",
          'seed=seed,\n        batch_from="all",',
          _RUN + "batches_come_from_where_the_config_says"),
    Fault("learns_from_ignored", "fmalign_jax/objectives/cwcl.py",
          "learning_scale(self.learns_from, self.stronger, self.weaker)", "1.0",
          "tests/test_objectives.py::test_a_teacher_gets_exactly_no_gradient"),
    Fault("oracle_judged_by_what_it_fits", _ORACLE,
          "fitted, judged = split.chosen(own), split.chosen(held)",
          "fitted, judged = split.chosen(own), split.chosen(own)",
          _JUDGED + "epochs_are_judged_by_windows_that_are_not_fitted"),
    Fault("oracle_keeps_the_last_epoch", _ORACLE,
          "if losses[-1] == min(losses):\n            best = state[0]",
          "best = state[0]\n        if losses[-1] == min(losses):\n            pass",
          _JUDGED + "the_parameters_of_the_best_epoch_are_kept"),
    Fault("until_visible_adds", "fmalign_jax/alarm/make.py",
          "middle = definition.lead_s - behind_s",
          "middle = definition.lead_s + behind_s",
          _WARNED + "the_condition_is_seen_a_lead_less_what_an_alarm_takes"),
    Fault("chance_not_moved", "fmalign_jax/alarm/comparison.py",
          "np.roll(values, len(values) // 2)", "np.roll(values, 0)",
          _WARNED + "chance_is_the_same_alarms_moved_by_half_a_series"),
    Fault("lag_of_the_units_ignored", "fmalign_jax/objectives/local_alignment.py",
          '"lag_ticks": self.lag_ticks}', '"lag_ticks": 0}',
          "tests/test_alignvsr.py::test_metrics_are_what_they_say"),
    Fault("pull_ignored", "fmalign_jax/config/default.py",
          "student: {student: 0.25, teacher: pull},",
          "student: {student: 0.25, teacher: 0.25},",
          "tests/test_default_config.py::test_who_teaches_is_written_into_every_table"),
    Fault("ridge_of_the_shared_level_ignored", _CMG, "(features, **settings)}",
          '(features, **{**settings, "ridge": 0.05})}', _SETTING),
    Fault("teacher_of_the_shared_level_ignored", _CMG, "(features, **settings)}",
          '(features, **{**settings, "teacher": "video"})}', _SETTING),
    Fault("student_weight_ignored", _CMG, "(features, **settings)}",
          '(features, **{**settings, "student_weight": 0.0})}', _SETTING),
    Fault("segments_ignored", _CMG, 'segments = self.codebook["shared"]["segments"]',
          "segments = 1", _SETTING),
    Fault("skip_ticks_ignored", _CMG, '.get("skip_ticks", 0) :]', '.get("none", 0) :]',
          _SETTING),
    Fault("shared_level_of_older_encoders", "fmalign_jax/train.py",
          "state = fit_shared(state, data.training)",
          "state = fit_shared(state, data.training) "
          "if step <= config.checkpoint_every_steps else state",
          _SHARED + "what_is_saved_is_fitted_to_the_encoders_that_are_saved"),
    Fault("features_ignored", "fmalign_jax/evaluation/transfer.py",
          "chosen.features = config.features or kinds[0]",
          "chosen.features = kinds[0]",
          _SHARED + "a_head_reads_the_features_of_the_config"),
    Fault("calibrate_ignored", "fmalign_jax/evaluate.py",
          "probabilities = calibration.calibrated(probabilities, splits, config)",
          "calibration.calibrated(probabilities, splits, config)",
          "tests/test_evaluate.py::"
          "test_target_scores_are_calibrated_by_the_source_where_asked_for"),
    Fault("one_random_encoder", "fmalign_jax/evaluate.py",
          "frozen.statistics, few.head.store, few.head.windows, "
          "seed=config.seed + draw",
          "frozen.statistics, few.head.store, few.head.windows, seed=config.seed",
          _SHARED + "random_encoders_are_the_mean_of_their_draws"),
    Fault("canonical_not_directed", "fmalign_jax/objectives/canonical.py",
          "learning_scale(self.learns_from, own, other),", "1.0,",
          "tests/test_sharing_objectives.py::test_the_canonical_term_is_directed"),
    Fault("ticks_per_window_ignored", "fmalign_jax/objectives/temporal_alignment.py",
          "if self.ticks_per_window is None else self.ticks_per_window",
          "if self.ticks_per_window is None else window_ticks",
          "tests/test_temporal_transfer.py::"
          "test_some_ticks_are_drawn_in_training_and_evenly_spaced_otherwise"),
    Fault("cascade_ignored", "fmalign_jax/systems/indexed_codebooks.py",
          "row = table.get(modality, {modality: 1.0})", "row = {modality: 1.0}",
          "tests/test_indexed_codebooks.py::"
          "test_a_codebook_is_read_as_the_mean_of_all_that_the_cascade_says"),
    Fault("stride_ignored", "fmalign_jax/objectives/cross_cpc.py",
          "self.stride * (1 + jnp.arange(self.steps))", "1 + jnp.arange(self.steps)",
          "tests/test_objectives.py::test_cross_cpc_predicts_every_stride_ticks"),
    Fault("causal_ignored", "fmalign_jax/models/layers.py",
          "if self.causal else None", "if False else None",
          "tests/test_encoders.py::test_a_causal_encoder_sees_no_later_tick"),
    Fault("lead_from_features_with_context", "fmalign_jax/lead/tick_features.py",
          "keep_semantic=True, context=False)", "keep_semantic=True)",
          _LEAD + "ticks_are_encoded_without_what_is_around_them"),
    Fault("place_kept_without_context", "fmalign_jax/models/layers.py",
          "if not context:\n        positions", "if False:\n        positions",
          "tests/test_onellm.py::test_without_context_a_tick_is_a_window_of_its_own"),
    Fault("trend_kept", "fmalign_jax/lead/indicators.py",
          " - (t - middle_s)[:, None] * slope", "",
          "tests/test_lead_indicators.py::"
          "test_whitened_views_are_white_and_without_trend_in_each_recording"),
    Fault("edge_of_a_window_taken", "fmalign_jax/lead/recordings.py",
          "min(config.stride_ticks, inner_ticks)", "config.stride_ticks",
          _LEAD + "no_tick_is_taken_from_the_edge_of_a_window"),
    Fault("features_of_another_run", "fmalign_jax/lead/recordings.py",
          "key = outputs.owned(key, keep_in, run.folder, run.digest)", "pass",
          _LEAD + "a_folder_of_several_runs_keeps_the_features_of_each"),
    Fault("memorised_lead_believed", "fmalign_jax/lead_time.py",
          "trained_on=bool(material.trained_on)", "trained_on=False",
          _LEAD + "recordings_of_the_training_are_known_by_what_they_hold"),
    Fault("trained_on_by_path", "fmalign_jax/lead/recordings.py",
          "trained_on = _trained_on(store, run)", "trained_on = False",
          _LEAD + "recordings_of_the_training_are_known_by_what_they_hold"),
    Fault("shuffle_partners_ignored", _SETUP, "if config.data.shuffle_partners:",
          "if False:", "tests/test_setup.py::"
          "test_with_shuffled_partners_training_sees_the_current_of_another_recording"),
    Fault("lead_range_ignored", "fmalign_jax/data/dataset.py",
          "lead_range_s=tuple(data.lead_range_s),", "lead_range_s=(),",
          "tests/test_lead_range.py::"
          "test_it_says_at_which_leads_the_current_was_read"),
    Fault("lag_weights_ignored", "fmalign_jax/models/encoders.py",
          'if self.weights == "mean":', "if False:",
          "tests/test_encoders.py::"
          "test_lag_stem_starts_around_the_middle_and_may_take_the_mean"),
    Fault("retrieval_of_codes_alone", "fmalign_jax/evaluation/transfer.py",
          'config.features == "semantic" or config.get("retrieval")',
          'config.features == "semantic"', "tests/test_evaluate.py::"
          "test_retrieval_is_said_of_every_kind_of_features_if_asked_for"),
    Fault("channels_ignored", "fmalign_jax/evaluate.py",
          "probabilities, chosen = transfer(seen, splits, spec, config)",
          "probabilities, chosen = transfer(encoded, splits, spec, config)", _KEPT),
    Fault("channels_of_random_encoders_ignored", "fmalign_jax/evaluate.py",
          "probabilities, _ = transfer(seen, few, spec, config)",
          "probabilities, _ = transfer(encoded, few, spec, config)", _KEPT),
    Fault("keep_ignored", "fmalign_jax/evaluation/channels.py",
          "keep = self.keep or", "keep = (channels // 2,) or", _KEPT),
    Fault("share_ignored", "fmalign_jax/evaluation/channels.py",
          "value = usefulness(vectors, spec.share)", "value = usefulness(vectors)",
          "tests/test_channels.py::test_each_setting_has_its_effect"),
    Fault("per_ignored", "fmalign_jax/evaluation/heads.py",
          '"per": spec.per,', '"per": "class",', "tests/test_prototype_heads.py::"
          "test_of_one_recording_both_forms_are_the_same"),
    Fault("few_shot_on_all_channels", "fmalign_jax/evaluate.py",
          "few_shot.describe(seen,", "few_shot.describe(encoded,",
          "tests/test_evaluate.py::test_the_few_shot_curve_is_said_if_asked_for"),
    Fault("localisation_on_all_channels", "fmalign_jax/evaluate.py",
          "encoder, frozen, seen, splits,", "encoder, frozen, encoded, splits,",
          _LOCATED),
    Fault("localisation_of_windows_as_laid", "fmalign_jax/evaluation/localisation.py",
          "min(data.stride_ticks, data.eval_stride_ticks)", "data.eval_stride_ticks",
          _LOCATED),
    Fault("open_set_on_all_channels", "fmalign_jax/evaluate.py",
          "open_set.describe(seen,", "open_set.describe(encoded,",
          "tests/test_evaluate.py::test_classes_may_be_unknown_to_the_head"),
    Fault("open_set_of_another_seed", "fmalign_jax/evaluation/open_set.py",
          "np.random.default_rng(config.seed)", "np.random.default_rng(0)",
          "tests/test_open_set.py::test_with_a_signal_they_are"),
    Fault("similarity_of_the_system_ignored", "fmalign_jax/evaluate.py",
          'getattr(encoder.system, "similarity", retrieval.similarity)',
          "retrieval.similarity", "tests/test_evaluate.py::"
          "test_retrieval_asks_a_system_how_similar_windows_are"),
    Fault("alarm_ignored", _WARNING,
          "chosen = methods[exported]", 'chosen = methods["model"]',
          "tests/test_early_warning.py::"
          "test_the_alarm_may_be_the_head_that_the_video_taught"),
    Fault("range_of_the_head_alone", "fmalign_jax/alarm/make.py",
          "for name in (HEAD, VALIDATION)", "for name in (HEAD,)",
          "tests/test_early_warning.py::"
          "test_the_alarm_knows_between_which_values_the_current_was"),
    Fault("labels_asked_for_not_given", _STATE,
          'label=batch["label"] if asked else None,',
          'label=jnp.zeros_like(batch["label"]) if asked else None,',
          _WIRED + "labels_reach_an_objective_that_asks_for_them_and_no_other"),
    Fault("labels_given_to_all", _STATE,
          'label=batch["label"] if asked else None,', 'label=batch.get("label", 0),',
          _WIRED + "without_such_an_objective_a_step_reads_no_labels"),
    Fault("summary_hides_labels", _TRAIN, '"labels": label_level(config),',
          '"labels": "L0",',
          "tests/test_fused_view.py::test_a_run_with_labels_says_so"),
    Fault("supervised_called_zero_shot", "fmalign_jax/evaluation/report.py",
          'return "zero_shot" if labels == NO_LABELS else "supervised_representation"',
          'return "zero_shot"',
          _LABELLED + "is_not_called_zero_shot"),
    Fault("token_file_ignored", _MONITOR, "read_token(arguments.token_file)",
          "read_token(None)",
          _SERVED + "token_file_and_level_of_the_command_line_are_used"),
    Fault("page_without_readings", _MONITOR, "viewer.write(cells)", "pass",
          _SERVED + "the_page_shows_what_is_logged_and_so_after_a_restart"),
    Fault("page_never_looks", _MONITOR, "viewer.look(monitor, watchdog)", "pass",
          _SERVED + "the_page_shows_what_is_logged_and_so_after_a_restart"),
    Fault("page_forgets", _MONITOR, "page.remember(last_rows(arguments.log))", "pass",
          _SERVED + "the_page_shows_what_is_logged_and_so_after_a_restart"),
    Fault("signing_key_ignored", _WARNING, "signature.sign(place / name, key_path)",
          "signature.path_of(place / name).touch()", _SIGNED),
    Fault("signing_key_chooses_the_folder", _WARNING,
          'del settings["signing_key"], settings["onnx"]',
          'del settings["onnx"]', _SIGNED),
    Fault("onnx_chooses_the_folder", _WARNING,
          'del settings["signing_key"], settings["onnx"]',
          'del settings["signing_key"]', _ONNX),
    Fault("onnx_not_signed", _WARNING, "(ALARM, ONNX) if config.onnx else (ALARM,)",
          "(ALARM,)", _ONNX),
    Fault("onnx_of_before_stays", _WARNING, "(folder / ALARM, folder / ONNX)",
          "(folder / ALARM,)", _ONNX),
)
# fmt: on


def fits(fault: Fault, root: pathlib.Path) -> bool:
    """Says whether the code still has the fault's text, exactly once."""
    path = root / fault.file
    return path.is_file() and path.read_text("utf-8").count(fault.text) == 1


def try_out(fault: Fault, root: pathlib.Path) -> tuple[str, str]:
    """Plants one fault in a copy; returns what became of it, and a line of why."""
    if not fits(fault, root):
        return UNFIT, f"{fault.file} must hold its text once"
    path = root / fault.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(fault.text, fault.planted), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--tb=line", fault.test]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    path.write_text(whole, "utf-8")
    lines = (found.stdout + found.stderr).strip().splitlines() or [""]
    # "PATH:LINE: WHY"; a crash says nothing of what the test asserts.
    failed = [re.sub(r"^.*?:\d+: ", "", x) for x in lines if ASSERTION.search(x)]
    if found.returncode == 1 and failed:
        return CAUGHT, failed[0]
    return SURVIVED if found.returncode == 0 else UNFIT, lines[-1]


def main() -> int:
    """Tries the faults that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", choices=[f.name for f in FAULTS])
    parser.add_argument("--list", action="store_true", help="print names and files")
    arguments = parser.parse_args()
    chosen = [f for f in FAULTS if arguments.only in (None, f.name)]
    if arguments.list:
        print(*(f"{fault.name:<32} {fault.file}" for fault in chosen), sep="\n")
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, root / name)
        for fault in chosen:
            outcome, why = try_out(fault, root)
            outcomes.append(outcome)
            print(f"{outcome:<14} {fault.name:<32} {why}", flush=True)
    caught = outcomes.count(CAUGHT)
    print(f"{caught} of {len(outcomes)} faults were caught")
    return int(caught < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
