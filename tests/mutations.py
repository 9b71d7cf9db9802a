"""Defects planted on purpose: each has to be caught by the test that is named beside it.

Run on demand (``make mutations``, or ``python tests/mutations.py [WORD ...]`` for those whose file, lines or test hold
a word): each defect is put into a copy of the tree, and its test is run there. A test that passes with the defect in
place is a hole.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect."""

    file: str
    """Below src/finetrainers."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    test: str
    """Test that fails because of it: a path below tests, with ::name."""


MUTATIONS = (
    # Configuration, command line, files, formulas, tracking.
    Mutation("config/syntax.py", "for _side in (_Loader, _Dumper):", "for _side in (_Loader,):", "config/test_load.py::test_what_is_dumped_loads_as_an_equal_configuration"),
    Mutation("config/load.py", "json.dumps(tree, default=str), strict=True)", "json.dumps(tree, default=str))", "config/test_load.py::test_a_wrong_key_is_one_line_with_key_value_and_way_out"),
    Mutation("config/syntax.py", "if key.value in names[:index]:", "if False:", "config/test_load.py::test_a_file_that_cannot_be_read_is_named_with_the_reason"),
    Mutation("config/syntax.py", 'encoding="utf-8-sig"', 'encoding="utf-8"', "config/test_load.py::test_a_byte_order_mark_does_not_matter"),
    Mutation("config/syntax.py", "    return int(text, {", "    return int(text, 0) if text else int(text, {", "config/test_load.py::test_plain_words_of_yaml_are_what_they_look_like"),
    Mutation("config/overrides.py", "    if types & TEXT:\n", "    if False:\n", "config/test_load.py::test_an_override_of_a_text_is_taken_as_it_is_given"),
    Mutation("prompts.py", '        given.setdefault("prompt", "")', "        pass", "test_prompts.py::test_an_empty_prompt_is_one"),
    Mutation("prepare.py", "    check_tuning(config, model)\n", "", "test_training.py::test_what_could_not_train_is_refused_before_anything_is_encoded"),
    Mutation("tuning/base.py", "    sort_metadata_of(file)\n", "", "test_export.py::test_the_header_says_what_the_file_is_and_no_more"),
    Mutation("data/cache.py", "sort_metadata(save(", "(save(", "data/test_cache.py::test_equal_items_are_equal_files"),
    Mutation("config/messages.py", "if not any(len(other) > len(place) and other[: len(place)] == place for other in found)", "if True", "config/test_load.py::test_a_wrong_key_is_one_line_with_key_value_and_way_out"),
    Mutation("config/tuning.py", '"logit_std": "logit_normal", "mode_scale": "mode"}', '"logit_std": "logit_normal"}', "config/test_load.py::test_a_setting_that_cannot_take_effect_is_an_error"),
    Mutation("config/reference.py", "elif origin is dict:\n        yield", "elif origin is set:\n        yield", "config/test_reference.py::test_the_reference_lists_every_key_of_the_schema"),
    Mutation("cli.py", "import time\n", "import time\n\nimport numpy\n", "test_cli.py::test_quick_commands_import_no_heavy_library"),
    Mutation("cli.py", "        return INTERRUPTED\n", "        return DONE\n", "test_cli.py::test_an_error_on_purpose_is_one_message_and_its_status"),
    Mutation("data/cache.py", "key=lambda entry: entry.used)", "key=lambda entry: -entry.used)", "test_cli.py::test_cache_prune_removes_the_least_recently_used_first"),
    Mutation("run.py", "    if changed:\n", "    if len(changed) > 1:\n", "test_run.py::test_a_change_that_makes_it_another_run_is_refused_with_both_values"),
    Mutation("run.py", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_run.py::test_a_second_holder_is_refused_until_the_first_is_gone"),
    Mutation("files.py", "            directory.rename(aside)\n        temporary", "            shutil.rmtree(directory)\n        temporary", "test_files.py::test_kill_at_any_operation_leaves_the_old_or_the_new"),
    Mutation("files.py", "        if hash_file(file).hex() != digest:", "        if False:", "test_files.py::test_damage_is_found_and_named"),
    Mutation("objective.py", "u.double() + HALF_STEP", "u.double()", "test_objective.py::test_draws_from_both_ends_give_levels_that_mirror_each_other"),
    Mutation("objective.py", ".clamp(*SIGMA_RANGE).float()", ".clamp(*SIGMA_RANGE).mul(1000).ceil().clamp(1, 999).div(1000).float()", "test_objective.py::test_noise_levels_are_rounded_to_no_grid"),
    Mutation("objective.py", "own = torch.minimum(self.given_frame_max_sigma * u[:, 2].float(), sigma[:, 0])", "own = self.given_frame_max_sigma * u[:, 2].float()", "test_objective.py::test_a_given_frame_is_never_noisier_than_its_clip"),
    Mutation("objective.py", "noised.counted / noised.counted.sum(1, keepdim=True)", "noised.counted / noised.counted.shape[1]", "test_objective.py::test_the_loss_is_the_weighted_mean_over_the_frames_that_count"),
    Mutation("objective.py", "return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)", "return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 + u)", "test_objective.py::test_mode_keeps_both_ends_and_the_middle"),
    Mutation("optim.py", "                parameter.copy_(value)  #", "                pass  #", "test_optim.py::test_five_steps_a_checkpoint_and_five_more_are_ten_steps"),
    Mutation("optim.py", "num_warmup_steps=config.warmup_steps", "num_warmup_steps=0", "test_optim.py::test_schedules_have_their_shapes"),
    Mutation("track.py", '            self._out.write("\\n")\n', "            pass\n", "test_track.py::test_a_torn_line_costs_only_itself"),
    Mutation("track.py", "math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)", "math.isfinite(metrics.loss)", "test_track.py::test_a_gradient_that_is_not_finite_stops_the_run_with_all_positions"),
    Mutation("publish.py", "    ignored = [MANIFEST]  #", "    ignored: list[str] = []  #", "test_publish.py::test_weights_card_and_samples_arrive_to_the_byte"),
    Mutation("prompts.py", 'value not in (None, "")', "value", "test_prompts.py::test_zero_is_a_value"),
    Mutation("config/load.py", "elif name not in section.idle():", "elif name in section.model_fields_set:", "config/test_load.py::test_a_changed_default_does_not_change_a_saved_run"),
    Mutation("config/overrides.py", 'if "bool" in types:', "if False:", "config/test_load.py::test_the_file_is_the_first_word_that_is_no_override"),
    Mutation("config/model.py", "return Path(path).expanduser().is_dir()", "return Path(path).is_dir()", "test_run.py::test_models_in_the_home_folder_are_found"),
    Mutation("run.py", 'data["views"] = section.num_views', "pass", "test_run.py::test_the_number_of_views_is_written_out"),
    Mutation("sample.py", '"request": {**asdict(request), **pictures},', '"request": request.prompt,', "test_sample.py::test_each_request_has_its_name"),
    Mutation("tuning/full.py", 'subfolder="{c}", torch_dtype={dtype})', 'subfolder="{c}", torch_dtype="auto")', "test_export.py::test_the_snippet_of_the_model_card_runs"),
    Mutation("data/plan.py", "uses[~_is_in(values, known)]", "uses", "data/test_plan.py::test_distinct_jobs_are_those_of_the_steps_each_once"),
    Mutation("data/plan.py", "codes[self.captions == NO_CAPTION] = -1", "pass", "data/test_plan.py::test_latents_and_texts_are_those_of_the_jobs_in_the_order_of_first_use"),
    Mutation("data/order.py", "[: steps - self.first_step(epoch), 0]", "[:, 0]", "data/test_order.py::test_starved_buckets_are_those_that_no_step_takes"),
    Mutation("data/cache.py", "secrets.token_hex(8)", "os.getpid()", "data/test_cache.py::test_two_runs_with_one_process_number_write_files_of_their_own"),
    Mutation("loop.py", "with self.attention():  # the", "if True:  # the", "test_training.py::test_the_attention_backend_holds_in_both_passes"),
    Mutation("run.py", "os.register_at_fork(after_in_child=lock.close)", "pass", "test_kill.py::test_a_killed_run_can_be_started_again_at_once"),
    Mutation("data/catalog.py", "memo.put_bad({", "dict({", "test_encoding.py::test_what_broke_when_decoded_stays_out_when_the_run_goes_on"),
    Mutation("training.py", "checkpoints.set_aside(resumed)", "pass", "test_training.py::test_going_back_to_a_step_sets_aside_what_came_later"),
    Mutation("models/vae.py", "latents.to(vae.dtype), *rest", "latents, *rest", "test_training.py::test_components_of_different_types_train_and_draw"),
    # The order: which sample comes when.
    Mutation("data/order.py", "self._seed = seed", "self._seed = 0", "data/test_order.py::test_seeds_give_other_orders"),
    Mutation("data/order.py", 'rows[permutation(len(rows), self._seed, "batches", epoch)]', "rows", "data/test_order.py::test_buckets_take_turns"),
    Mutation("data/order.py", "step * self.batch_size + np.arange", "step + np.arange", "data/test_order.py::test_positions_count_samples_without_a_gap"),
    Mutation("data/order.py", "offset, end = self._drawn(bucket, epoch), self._drawn(bucket, epoch + 1)", "offset, end = self._drawn(bucket, epoch), self._drawn(bucket, epoch + 1) - 1", "data/test_order.py::test_no_sample_is_dropped_and_none_is_favoured"),
    # Media and sources.
    Mutation("data/video.py", "if number > expected or frame.is_corrupt:", "if number > expected:", "data/test_media.py::test_damage_in_the_middle_is_an_error"),
    Mutation("data/video.py", "if number > expected or frame.is_corrupt:", "if frame.is_corrupt:", "data/test_media.py::test_a_missing_frame_is_an_error_even_if_it_is_not_wanted"),
    Mutation("data/video.py", "(chosen + PHASE) / view.fps", "chosen / view.fps", "data/test_media.py::test_resampling_takes_the_frame_that_is_on_screen"),
    Mutation("data/video.py", "flip_rows=b < 0, flip_columns=c < 0", "flip_rows=c < 0, flip_columns=b < 0", "data/test_media.py::test_rotated_video_is_upright"),
    Mutation("data/timeline.py", "if num_beyond > REORDER_PACKETS:", "if num_beyond > 0:", "data/test_media.py::test_every_container_gives_the_frames_that_are_asked_for"),
    Mutation("data/timeline.py", "if not keys:", "if False:", "data/test_media.py::test_a_long_rest_before_the_first_key_frame"),
    Mutation("data/timeline.py", "if end < stated - MISSING_SECONDS:", "if False:", "data/test_media.py::test_a_damaged_structure_is_found_by_the_probe"),
    Mutation("data/view.py", "return cut[:, ::-1] if view.flip else cut", "return cut", "data/test_media.py::test_crops_keep_the_aspect_and_stretch_does_not"),
    Mutation("data/images.py", "if image.mode in SIXTEEN_BIT_MODES:", "if False:", "data/test_media.py::test_sixteen_bits_are_scaled_not_clipped"),
    Mutation("data/images.py", "return _rgb(ImageOps.exif_transpose(image), path)", "return _rgb(image, path)", "data/test_media.py::test_exif_orientation"),
    Mutation("data/containers.py", "if not has_index:", "if False:", "data/test_media.py::test_an_mp4_whose_index_was_never_written"),
    Mutation("data/sources.py", "if len(texts) != len(paths):", "if False:", "data/test_sources.py::test_lists_of_different_length_name_both_counts"),
    Mutation("data/metadata.py", "if len(found) == 1:", "if found:", "data/test_sources.py::test_unclear_columns"),
    Mutation("data/captions.py", "else rest[:1].upper() + rest[1:]", "else rest", "data/test_captions.py::test_openings_are_cut_and_the_first_letter_is_capitalised"),
    Mutation("data/buckets.py", "fits = (num_frames >= frames) & ", "fits = ", "data/test_buckets.py::test_the_nearest_in_aspect_and_duration"),
    # The cache: whole, never stale.
    Mutation("data/cache.py", "temporary.unlink(missing_ok=True)\n            raise DataError", "raise DataError", "data/test_cache.py::test_a_failed_write_leaves_nothing"),
    Mutation("data/cache.py", "if entry.key not in keep:", "if True:", "data/test_cache.py::test_least_recently_used_items_go_first"),
    Mutation("data/cache.py", "os.utime(self.file(kind, key))", "self.file(kind, key).stat()", "data/test_cache.py::test_least_recently_used_items_go_first"),
    Mutation("data/cache.py", 'metadata.get("digest") != _digest(tensors)', "False", "data/test_cache.py::test_damage_is_found"),
    Mutation("data/memo.py", "AND size = ? AND mtime_ns = ?\",\n            (path, stamp.size, stamp.mtime_ns)", "\",\n            (path,)", "data/test_cache.py::test_the_memo_knows_unchanged_files_only"),
    Mutation("data/plan.py", 'make_key("latents", self.latents_encoder, ', 'make_key("latents", ', "test_encoding.py::test_what_changes_the_latents_changes_their_key"),
    Mutation("data/plan.py", "data.digests[item].tobytes().hex(), _values(pixels)", "data.digests[item].tobytes().hex()", "test_encoding.py::test_what_changes_the_latents_changes_their_key"),
    Mutation("data/plan.py", 'make_key("text", self.text_encoder, caption)', 'make_key("text", self.text_encoder, len(caption))', "test_encoding.py::test_each_item_is_encoded_once"),
    Mutation("data/catalog.py", "number = data.digests[:, -8:]", "number = np.random.default_rng(0).integers(0, 256, (len(data.digests), 8), dtype=np.uint8)[:, -8:]", "data/test_catalog.py::test_copies_of_one_file_stay_on_one_side"),
    # Encoding.
    Mutation("encoding.py", "self.memo.digest(file).hex()", "file.name", "test_encoding.py::test_other_weights_of_an_encoder_change_the_keys"),
    Mutation("encoding.py", 'if not self.cache.has(kind, job.key):', "if True:", "test_encoding.py::test_a_second_run_opens_no_media_and_loads_no_encoder"),
    Mutation("encoding.py", "problems += [clip for clip in clips if isinstance(clip, Problem)]", "pass", "test_encoding.py::test_media_that_break_only_when_decoded_follow_on_error"),
    Mutation("models/vae.py", "mean = ((mean - shift) * scale).to(vae.dtype)", "mean = (mean * scale - shift).to(vae.dtype)", "models/test_adapters.py::test_normalized_latents_go_back_to_the_picture_through_the_pipeline"),
    Mutation("models/vae.py", "/ 127.5 - 1", "/ 255", "test_encoding.py::test_cached_latents_are_those_of_the_vae"),
    # The loop.
    Mutation("loop.py", "1 / self.config.batch_size)", "1 / len(losses))", "test_training.py::test_micro_batches_change_only_rounding"),
    Mutation("loop.py", 'seed_of(self.seed, "dropout", self.step, index) >> 1', "torch.seed() >> 1", "test_training.py::test_resumed_equals_uninterrupted"),
    Mutation("loop.py", "seed_device(self.device, seed_of", "(lambda *_: None)(self.device, seed_of", "test_training.py::test_validation_changes_nothing_in_training"),
    Mutation("loop.py", "self.num_skipped += 1\n        else:", "self.num_skipped += 1\n        if True:", "test_training.py::test_a_step_that_is_not_finite_can_be_skipped_and_is_counted"),
    Mutation("track.py", "if self._stops:\n                raise NonFiniteError(message)", "", "test_training.py::test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples"),
    Mutation("data/loader.py", "uniform(seed, positions.numpy(), purpose)", "torch.rand(len(positions)).double().numpy()", "test_training.py::test_number_of_workers_changes_nothing"),
    Mutation("tuning/base.py", "parameter.data = parameter.data.float()", "pass", "test_training.py::test_lora_over_a_bfloat16_base_is_held_in_float32"),
    # Checkpoints.
    Mutation("checkpoint.py", "if trainer.ema is not None:\n            trainer.ema.load_state_dict", "if False:\n            trainer.ema.load_state_dict", "test_training.py::test_resumed_equals_uninterrupted"),
    Mutation("checkpoint.py", 'trainer.schedule.load_state_dict(state["schedule"])', "pass", "test_training.py::test_resumed_equals_uninterrupted"),
    Mutation("checkpoint.py", "self.steps()[: -self._keep]", "self.steps()[: 1 - self._keep]", "test_checkpoint.py::test_the_newest_are_kept"),
    Mutation("checkpoint.py", "if latest is None and self.steps():", "if False:", "test_checkpoint.py::test_only_damaged_checkpoints_are_an_error_not_a_start_from_zero"),
    Mutation("checkpoint.py", 'if path[:2] != ("optimizer", "param_groups") or depth < len(path) - 1:', "if False:", "test_checkpoint.py::test_another_optimizer_does_not_fit"),
    Mutation("optim.py", "optimizer.state.clear()", "pass", "test_training.py::test_resumed_equals_uninterrupted"),
    Mutation("optim.py", "parameter.copy_(value)", "pass", "test_training.py::test_validation_of_schedule_free_changes_nothing"),
    # Export and validation.
    Mutation("tuning/lora.py", '{**facts.metadata, SETTINGS: to_json(settings)}', "facts.metadata", "test_export.py::test_flux_draws_the_same_picture_in_plain_diffusers"),
    Mutation("validate.py", "trainer.ema.copy_to(trainer.parameters)", "pass", "test_validate.py::test_what_is_measured_is_what_is_exported"),
    Mutation("validate.py", "stack.callback(trainer.ema.restore, trainer.parameters)", "pass", "test_validate.py::test_what_is_measured_is_what_is_exported"),
    Mutation("validate.py", "content = int(job.latents.key[:15], 16)", "content = torch.seed() >> 1", "test_validate.py::test_the_baseline_depends_on_model_and_held_out_data_alone"),
    # Adapters.
    Mutation("models/flux.py", "timestep=sigma[:, 0],", "timestep=sigma[:, 0].mul(1000).round().div(1000),", "models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it"),
    Mutation("models/flux.py", "folded.permute(0, 2, 4, 1, 3, 5).reshape(batch", "folded.permute(0, 2, 4, 1, 5, 3).reshape(batch", "models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it"),
    Mutation("models/ltx_video.py", "1000 * sigma.repeat_interleave(height * width, dim=1)", "1000 * sigma[:, :1].expand(-1, frames * height * width)", "models/test_adapters.py::test_ltx_takes_a_noise_level_for_each_frame"),
    Mutation("models/ltx_video.py", "scale = (step / fps)", "scale = (step / 25 + 0 * fps)", "models/test_adapters.py::test_ltx_is_told_the_frame_rate"),
    # CogVideoX and CogView4.
    Mutation('models/cogvideox.py', 'timestep=timestep_of(sigma[:, 0]),', 'timestep=(1000 * sigma[:, 0]).round().long().clamp(0, 999),', 'models/test_cogvideox.py::test_the_time_step_that_is_told_is_that_of_the_noise'),
    Mutation('models/cogvideox.py', 'scale = 1 / scale', 'scale = scale * 1', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 1.5-5b-i2v image-to-video]'),
    Mutation('models/cogvideox.py', 'scale_pixels(pixels[:, :1])', 'scale_pixels(pixels[:, -1:])', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 5b-i2v image-to-video]'),
    Mutation('models/cogvideox.py', 'OFS = 2.0', 'OFS = 0.0', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 1.5-5b-i2v image-to-video]'),
    Mutation('models/cogvideox.py', 'tuple(size), base[1], base[0])', 'tuple(size), base[0], base[1])', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 5b text-to-video]'),
    Mutation('models/cogvideox.py', 'frames = frames // frame_patch', 'pass', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 1.5-5b text-to-video]'),
    Mutation('models/cogvideox.py', 'torch.cat([picture, others], dim=2)', 'torch.cat([others, picture], dim=2)', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogvideox 5b-i2v image-to-video]'),
    Mutation('models/cogvideox.py', 'largest = (math.inf, height, width)', 'pass', 'models/test_cogvideox.py::test_sizes'),
    Mutation('models/cogvideox.py', 'smallest = largest = (denoiser', 'largest = (denoiser', 'models/test_cogvideox.py::test_sizes'),
    Mutation('models/cogvideox.py', 'return {task: self.pipelines[task]}', 'return self.pipelines', 'models/test_cogvideox.py::test_a_model_does_the_task_that_its_channels_are_for'),
    Mutation('models/cogvideox.py', 'NoiseLevels("uniform")', 'NoiseLevels("logit_normal")', 'models/test_cogvideox.py::test_all_time_steps_are_as_likely'),
    Mutation('objective.py', 'target=signal * noise - spread * latents', 'target=signal * noise + spread * latents', 'models/test_cogvideox.py::test_noise_and_target_are_those_of_the_scheduler'),
    Mutation('checks.py', 'if model.adapter.has_fixed_sequence_length and model.max_length', 'if False and model.max_length', 'models/test_cogvideox.py::test_added_positions_take_one_prompt_length'),
    Mutation('checks.py', 'if backend != "native" and not model.adapter.dispatches_attention:', 'if False:', 'models/test_cogvideox.py::test_an_attention_backend_that_would_change_nothing_is_refused'),
    Mutation('models/cogview4.py', '1 / shift)', '1.0)', 'models/test_cogview4.py::test_the_time_step_is_told_before_the_shift'),
    Mutation('models/cogview4.py', '[:, : int(text[LENGTH][0])]', '', 'models/test_cogview4.py::test_prompts_of_unequal_length_do_not_change_each_other'),
    Mutation('models/cogview4.py', 'curve="root",', '', 'models/test_cogview4.py::test_noise_levels_are_shifted_as_the_pipeline_shifts_them'),
    Mutation('models/cogview4.py', 'settings.get("time_shift_type", "exponential") == "exponential"', 'True', 'models/test_cogview4.py::test_a_picture_of_1024_pixels_has_the_shift_of_its_authors'),
    Mutation('models/cogview4.py', '[embeds.new_full((1, 1), height), embeds.new_full((1, 1), width)]', '[embeds.new_full((1, 1), width), embeds.new_full((1, 1), height)]', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[cogview4 6b text-to-image]'),
    Mutation('batch.py', 'return tensor.ndim == 1 and tensor.dtype == torch.int64', 'return False', 'models/test_cogview4.py::test_lengths_stay_on_the_host'),
    Mutation('sampler.py', 'self._model.adapter.sampling_text(text)', 'text', 'models/test_cogview4.py::test_the_sampler_hands_over_prompts_without_padding'),
    # HunyuanVideo, and text that sees a picture.
    Mutation('data/plan.py', 'self.text_encoder, caption, seen.key), caption, seen)', 'self.text_encoder, caption), caption, seen)', 'data/test_plan.py::test_a_text_is_named_by_its_caption_and_by_what_is_seen_with_it'),
    Mutation('data/plan.py', '        if self.plan.text_sees_image:\n', '        if False:\n', 'data/test_plan.py::test_latents_and_texts_are_those_of_the_jobs_in_the_order_of_first_use'),
    Mutation('data/plan.py', 'codes * (1 + int(self.views.max(initial=0))) + self.views', 'codes', 'data/test_plan.py::test_latents_and_texts_are_those_of_the_jobs_in_the_order_of_first_use'),
    Mutation('data/plan.py', 'hash_file(Path(picture)).hex()', 'picture', 'data/test_plan.py::test_a_text_is_named_by_its_caption_and_by_what_is_seen_with_it'),
    Mutation('encoding.py', 'PIL.Image.fromarray(clip.pixels[0].numpy())', 'PIL.Image.fromarray(clip.pixels[-1].numpy())', 'models/test_seen_text.py::test_what_is_seen_is_the_first_frame_that_is_trained_on'),
    Mutation('encoding.py', '        if settings := adapter.text_settings(self.model.task):\n', '        if settings := {}:\n', 'models/test_seen_text.py::test_models_that_take_the_picture_differently_share_no_text'),
    Mutation('budget.py', '            if not self.encoder.fill([], [job.text]):\n', '            if self.encoder.fill([], [job.text]):\n', 'models/test_seen_text.py::test_a_small_cache_is_filled_in_windows'),
    Mutation('validate.py', '    jobs = [plan.text_job(request.prompt, request.image) for request in requests]\n', '    jobs = [plan.text_job(request.prompt) for request in requests]\n', 'models/test_seen_text.py::test_validation_draws_with_what_was_encoded'),
    Mutation('models/base.py', ' and "text-to-video" in adapter.tasks', '', 'models/test_hunyuan_video.py::test_a_prompt_has_to_name_its_picture'),
    Mutation('compat/tokenizers.py', '{"LlamaTokenizerFast": "PreTrainedTokenizerFast"}', '{}', 'models/test_hunyuan_video.py::test_the_template_has_the_tokens_that_the_pipeline_counts_on'),
    Mutation('models/hunyuan_video.py', 'scale_pixels(pixels[:, :1]))\n        return {"image_latents": latents}', 'scale_pixels(pixels))\n        return {"image_latents": latents[:, :, :1]}', 'models/test_hunyuan_video.py::test_the_first_frame_of_a_clip_has_other_latents_than_the_frame_alone'),
    Mutation('models/hunyuan_video.py', '        # One by one: in a batch, the pipeline loses count of the tokens of prompts that are cut.\n', '        images, captions = [list(images)], [list(captions)]\n', 'models/test_hunyuan_video.py::test_captions_that_are_cut_are_encoded_as_the_pipeline_does_it_alone'),
    Mutation('models/hunyuan_video.py', '{"latent_concat": 2, "token_replace": 4}', '{"latent_concat": 4, "token_replace": 2}', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[hunyuan_video i2v image-to-video]'),
    Mutation('models/hunyuan_video.py', 'timestep=1000 * sigma[:, -1]', 'timestep=1000 * sigma[:, 0]', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[hunyuan_video i2v image-to-video]'),
    Mutation('models/hunyuan_video.py', '1000 * NEUTRAL_GUIDANCE', 'NEUTRAL_GUIDANCE', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[hunyuan_video t2v text-to-video]'),
    Mutation('models/hunyuan_video.py', 'return task == "image-to-video" and self.condition == "token_replace"', 'return task == "image-to-video"', 'models/test_hunyuan_video.py::test_only_the_model_that_replaces_tokens_gives_its_first_frame'),
    Mutation('models/hunyuan_video.py', '        return {task: self.pipelines[task]}\n', '        return self.pipelines\n', 'models/test_hunyuan_video.py::test_a_model_does_the_task_it_was_made_for_and_no_other'),
    # LTX-Video's given frames.
    Mutation('models/ltx_video.py', '+ 1 - step).clamp(min=0)', ').clamp(min=0)', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[ltx_video 0.9.5 text-to-video]'),
    Mutation('models/ltx_video.py', 'later = 1 + prompt.given', 'later = prompt.given', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[ltx_video 0.9.5 first-last-frame-to-video middle]'),
    Mutation('models/ltx_video.py', 'torch.cat([sigma.new_zeros(later.shape), sigma], dim=1)', 'torch.cat([sigma[:, -1:].expand(later.shape), sigma], dim=1)', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[ltx_video 0.9.5 first-last-frame-to-video last]'),
    Mutation('models/ltx_video.py', 'torch.cat([step * later, begins', 'torch.cat([step * later - step + 1, begins', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[ltx_video 0.9.5 first-last-frame-to-video last]'),
    Mutation('models/ltx_video.py', 'return torch.cat(answers)[torch.cat(groups).argsort()]', 'return torch.cat(answers)', 'models/test_given_frames.py::test_rows_with_different_sets_do_not_disturb_each_other'),
    Mutation('models/ltx_video.py', '"last_image": request.size[0] - 1}', '"last_image": request.size[0]}', 'models/test_given_frames.py::test_requests_are_drawn_from_the_frames_that_they_name'),
    Mutation('models/ltx_video.py', '"decode_noise_scale": 0.025}', '"decode_noise_scale": 0.05}', 'models/test_given_frames.py::test_requests_are_drawn_from_the_frames_that_they_name'),
    Mutation('models/ltx_video.py', 'ResolutionShift(1024, 0.95, 4096, 2.05)', 'ResolutionShift()', 'models/test_given_frames.py::test_the_task_decides_what_is_given_by_default'),
    Mutation('models/ltx_video.py', '        if self.takes_keyframes:\n            return dict', '        if True:\n            return dict', 'models/test_given_frames.py::test_only_releases_with_keyframes_have_the_task'),
    Mutation('models/ltx_video.py', 'return self.takes_keyframes and task ==', 'return task ==', 'models/test_given_frames.py::test_what_the_model_or_the_task_cannot_is_refused'),
    Mutation('objective.py', 'count = 1 + (u[:, 3] * frames).long()', 'count = (u[:, 3] * frames).long()', 'test_objective.py::test_random_sets_are_of_any_size_and_any_frames'),
    Mutation('objective.py', 'given[:, 0] = self.given_frames != "last"', 'given[:, 0] = self.given_frames == "first"', 'test_objective.py::test_a_set_of_given_frames_is_the_one_that_is_asked_for'),
    Mutation('objective.py', '        given &= self.first_frame_probability == 1.0\n', '', 'test_objective.py::test_what_is_measured_is_given_what_training_always_gives'),
    Mutation('batch.py', 'return taken if self.given is None else replace(taken, given=self.given[rows])', 'return taken', 'models/test_given_frames.py::test_micro_batches_keep_the_sets_of_their_rows'),
    Mutation('data/loader.py', 'given=objective.given(u, frames=frames)', 'given=None', 'models/test_given_frames.py::test_sets_belong_to_the_sample_position'),
    Mutation('validate.py', 'latents.shape[2], torch.tensor([content])', 'latents.shape[2], torch.tensor([trainer.step])', 'models/test_given_frames.py::test_the_held_out_loss_is_the_same_each_time[random]'),
    Mutation('build.py', 'if wanted == "none" and starts:', 'if False:', 'models/test_given_frames.py::test_what_the_model_or_the_task_cannot_is_refused'),
    # Wan and experts.
    Mutation('models/wan.py', 'tokens = x.shape[-2] * x.shape[-1] // self.grid.patch**2\n            timestep = 1000 * sigma.repeat_interleave(tokens, dim=1)', 'tokens = x.shape[-2] * x.shape[-1] // self.grid.patch**2\n            timestep = 1000 * sigma[:, -1:].expand(-1, sigma.shape[1] * tokens)', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[wan 2.2-ti2v-5b image-to-video]'),
    Mutation('models/wan.py', 'pixels[frame].numpy()) for frame in ((0, -1) if has_last else (0,))', 'pixels[frame].numpy()) for frame in ((0, 0) if has_last else (0,))', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[wan 2.1-flf2v first-last-frame-to-video]'),
    Mutation('models/wan.py', 'samples_posterior = False', 'samples_posterior = True', 'models/test_wan.py::test_the_first_latent_of_a_clip_is_what_the_pipeline_makes_of_its_first_frame'),
    Mutation('models/wan.py', 'self.has_fixed_sequence_length = self.has_clip', 'self.has_fixed_sequence_length = False', 'models/test_wan.py::test_models_with_clip_take_prompts_of_512_tokens_and_no_others'),
    Mutation('models/wan.py', 'self.lora_targets = (*self.lora_targets, "add_k_proj", "add_v_proj")', 'pass', 'models/test_wan.py::test_lora_of_an_image_model_loads_without_additions'),
    Mutation('models/experts.py', '(is_left & (timestep >= first))', '(is_left & (timestep > first))', 'models/test_experts.py::test_each_row_is_answered_by_the_expert_of_its_noise_level'),
    Mutation('models/experts.py', 'torch.cat(answers)[torch.cat(rows).argsort()]', 'torch.cat(answers)', 'models/test_experts.py::test_each_row_is_answered_by_the_expert_of_its_noise_level'),
    Mutation('build.py', ', between=model.denoisers.noise_range)', ')', 'models/test_experts.py::test_noise_levels_are_those_of_the_experts_that_train'),
    Mutation('build.py', 'name = "flow_shift" if adapter.scheduler.get("use_flow_sigmas") else "shift"', 'name = "shift"', 'models/test_wan.py::test_a_model_does_what_its_configuration_says'),
    Mutation('validate.py', 'low, high = trainer.objective.noise_levels.between', 'low, high = 0.0, 1.0', 'models/test_experts.py::test_held_out_loss_of_one_expert_is_that_of_its_noise_levels'),
    Mutation('checkpoint.py', 'state["optimizer"]["state"] = {name: averages[name] for name in averages if name in stepped}', 'pass', 'models/test_experts.py::test_resuming_both_is_the_same_run_to_the_bit'),
    Mutation('tuning/full.py', 'module.forward = _without_autocast(module.forward)  # of this object alone', 'pass', 'models/test_wan.py::test_training_in_bfloat16_computes_what_sampling_computes'),
    Mutation('tuning/full.py', 'torch.float32 if kept.intersection(name.split(".")) else facts.dtype', 'facts.dtype', 'models/test_wan.py::test_a_step_in_bfloat16_trains_and_what_is_kept_in_float32_is_exported_so'),
    Mutation('tuning/full.py', "f'pipeline = {pipeline_class}.from_pretrained(", 'f\'pipeline = __import__("diffusers").DiffusionPipeline.from_pretrained(', 'models/test_experts.py::test_weights_of_the_trained_experts_are_exported_and_drawn_with[both-full]'),
    Mutation('tuning/lora.py', 'weight_name="{SECOND_FILE}", load_into_transformer_2=True)', 'weight_name="{SECOND_FILE}")', 'models/test_experts.py::test_weights_of_the_trained_experts_are_exported_and_drawn_with[low_noise-lora]'),
    Mutation('models/load.py', 'given = {name: value for name, value in self.index.items() if name in known}', 'given = {name: value for name, value in self.index.items() if name in known and isinstance(value, list)}', 'models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it[wan 2.2-t2v-a14b text-to-video low-noise expert]'),
    Mutation('validate.py', 'parts |= {name: pretrained.load(name).to(trainer.device) for name in self.model.denoisers.others}', 'pass', 'models/test_experts.py::test_weights_of_the_trained_experts_are_exported_and_drawn_with[high_noise-lora]'),
    Mutation('tuning/full.py', 'subfolder="{c}", torch_dtype={dtype})', 'subfolder="{c}", torch_dtype="auto")', 'test_export.py::test_the_snippet_of_the_model_card_runs'),
    # What families share.
    Mutation("training.py", "with closing(build_batches(self.config, prepared, objective=objective, device=device, **steps)) as batches:", "for batches in [build_batches(self.config, prepared, objective=objective, device=device, **steps)]:", "test_training.py::test_a_script_that_ends_with_an_error_waits_for_no_worker"),
    Mutation("models/load.py", '"processor": "preprocessor_config"', '"processor": "config"', "models/test_adapters.py::test_each_component_of_a_hub_model_is_known_by_its_commit"),
    Mutation("sample.py", "for key, file in files.items()}", "for key, file in files.items() if key == 'image'}", "test_sample.py::test_a_changed_picture_is_drawn_anew"),
    Mutation("objective.py", ".clamp(low, high).clamp(*SIGMA_RANGE)", ".clamp(*SIGMA_RANGE)", "test_objective.py::test_levels_of_an_expert_stay_in_its_range"),
    Mutation("objective.py", "target=signal * noise - spread * latents", "target=signal * noise + spread * latents", "test_objective.py::test_v_leads_back_to_the_data_and_to_the_noise"),
    Mutation("encoding.py", "adapter.grid.frame_patch, adapter.vae_statistics", "adapter.vae_statistics", "models/test_adapters.py::test_latents_of_other_padding_have_other_names"),
    # The quick start.
    Mutation('quickstart/run.py', '        if status:\n            return status\n', '', 'quickstart/test_quickstart_run.py::test_what_is_printed_is_what_runs_and_a_failure_ends_it'),
    Mutation('quickstart/run.py', 'status = command(arguments)', "status = command([name, str(options.config_file.absolute()), 'seed=1'])", 'quickstart/test_quickstart_run.py::test_what_is_printed_is_what_runs_and_a_failure_ends_it'),
    Mutation('quickstart/run.py', '    if report_file.exists():\n', '    if False:\n', 'quickstart/test_quickstart_run.py::test_a_finished_quick_start_does_nothing_again'),
    Mutation('quickstart/run.py', '(("before", None), ("after", weights))', '(("before", None), ("after", None))', 'quickstart/test_floor.py::test_the_lora_draws_the_concept_and_the_base_does_not'),
    Mutation('quickstart/run.py', 'drawn[label]["concept_held_out"]', 'drawn["after"]["concept_held_out"]', 'quickstart/test_quickstart_run.py::test_the_comparison_has_three_rows_that_differ'),
    Mutation('quickstart/run.py', '"after": losses[-1][1]}', '"after": losses[0][1]}', 'quickstart/test_floor.py::test_the_held_out_loss_falls'),
    Mutation('quickstart/evidence.py', '        pipeline.load_lora_weights(weights)\n', '        pass\n', 'quickstart/test_floor.py::test_the_lora_draws_the_concept_and_the_base_does_not'),
    Mutation('quickstart/evidence.py', 'for truth, others in zip(truths, turned, strict=True)', 'for truth, others in zip(truths, ([t] for t in truths), strict=True)', 'quickstart/test_floor.py::test_shuffled_captions_are_at_the_floor'),
    Mutation('quickstart/evidence.py', '[concept(n, seed, split="held_out") for n in numbers]', '[concept(n, seed) for n in numbers]', 'quickstart/test_quickstart_run.py::test_no_caption_is_in_two_sets'),
    Mutation('quickstart/evidence.py', '[known(n, seed, split="held_out") for n in numbers]', '[known(n, seed + 1) for n in numbers]', 'quickstart/test_quickstart_run.py::test_what_is_held_out_shares_no_combination_with_what_was_trained_on'),
    Mutation('quickstart/figures.py', 'manual_seed(seed * 1_000_003 + start + n)', 'manual_seed(torch.seed() >> 1)', 'quickstart/test_floor.py::test_zero_steps_change_no_pixel'),
    Mutation('quickstart/report.py', 'asdict(figures(showcase, shown, own)) for', "asdict(figures(showcase, pictures['after'], own)) for", 'quickstart/test_floor.py::test_with_the_lora_deleted_the_figures_are_those_of_the_base'),
    Mutation('quickstart/project.py', '(known(n, seed) for n in', '(known(n, seed, split="held_out") for n in', 'quickstart/test_quickstart_run.py::test_what_is_rehearsed_was_not_held_out_from_the_base'),
    Mutation('quickstart/project.py', '(concept(n, seed) for n in', '(concept(n, seed + 1) for n in', 'quickstart/test_quickstart_run.py::test_the_concepts_training_prompts_are_the_captions_that_were_trained_on'),
    Mutation('quickstart/project.py', '    if lines:\n', '    if False:\n', 'quickstart/test_quickstart_run.py::test_other_options_in_the_same_folder_are_refused_with_both_values'),
    Mutation('quickstart/project.py', 'if options.output.is_dir() and any(options.output.iterdir()):', 'if False:', 'quickstart/test_quickstart_run.py::test_a_folder_of_something_else_is_left_alone'),
    Mutation('quickstart/project.py', 'return json.dumps(str(text), ensure_ascii=False)', 'return str(text)', 'quickstart/test_quickstart_run.py::test_any_folder_name_can_stand_in_the_configuration'),
    Mutation('quickstart/project.py', '    parse_config(yaml.safe_load(text), origin="the quick start\'s configuration")\n', '', 'quickstart/test_quickstart_run.py::test_impossible_options_are_refused_before_anything_is_written'),
    Mutation('quickstart/project.py', '    if prompts_file.exists():', '    if options.config_file.exists():', 'quickstart/test_quickstart_run.py::test_a_quick_start_that_was_cut_off_writes_the_rest'),
    Mutation('quickstart/comparison.py', 'CAPTION_LETTERS = 24', 'CAPTION_LETTERS = 34', 'quickstart/test_comparison.py::test_every_caption_fits_above_its_picture'),
    Mutation('quickstart/comparison.py', '("right", RIGHT) if is_right else', '("right", RIGHT) if True else', 'quickstart/test_comparison.py::test_a_picture_says_whether_it_measures_right'),
    # The quick start's clips.
    Mutation('quickstart/video/clips.py', 'low, high = sorted((clip.colour, clip.ground))', 'low, high = clip.colour, clip.ground', 'quickstart/video/test_clips.py::test_the_split_is_the_same_for_both_orders_of_the_colours_and_for_all_motions'),
    Mutation('quickstart/video/clips.py', 'return draw(MARGIN + reach, SIZE - MARGIN - reach)', 'return draw(reach, SIZE - reach)', 'quickstart/video/test_clips.py::test_all_of_the_shape_is_in_the_picture_in_every_frame'),
    Mutation('quickstart/video/clips.py', '        square_box(x - half * column, y - half * row, radius),', '        square_box(x - half * column, y + half * row, radius),', 'quickstart/video/test_clips.py::test_a_shape_moves_where_its_caption_says'),
    Mutation('quickstart/video/clips.py', 'boxes = np.linspace(first, last, NUM_FRAMES).tolist()', 'boxes = [first] * (NUM_FRAMES - 1) + [last]', 'quickstart/video/test_measure_clip.py::test_rendered_clips_measure_right'),
    Mutation('quickstart/video/effect.py', 'split_of_clip(clip) == split', 'split_of_clip(clip) != split', 'quickstart/video/test_effect.py::test_what_is_held_out_of_the_effect_the_base_has_not_seen_either'),
    Mutation('quickstart/video/effect.py', 'opacity=(1.0, 0.0)', 'opacity=(1.0, 0.1)', 'quickstart/video/test_effect.py::test_the_shape_loses_its_colour_evenly_and_in_its_place'),
    Mutation('quickstart/base.py', 'if tree.pop(ORIGIN, None) is not None:', 'if False:', 'quickstart/test_floor.py::test_a_written_base_is_what_it_was'),
    Mutation('quickstart/evidence.py', 'for other in others if other != truth', 'for other in others', 'quickstart/video/test_evidence_clips.py::test_no_clip_gets_its_own_caption_when_they_are_shuffled'),
    Mutation('quickstart/video/measure.py', '[was], HIGH) > GONE', '[was], 50) > GONE', 'quickstart/video/test_measure_clip.py::test_what_goes_in_another_way_does_not_dissolve'),
    Mutation('quickstart/video/measure.py', 'bool(is_half and has_stayed)', 'bool(is_half)', 'quickstart/video/test_measure_clip.py::test_what_goes_in_another_way_does_not_dissolve'),
    Mutation('quickstart/video/measure.py', ' and (seen == times or reading.counts[-1] == 0)', '', 'quickstart/video/test_measure_clip.py::test_what_dissolves_goes_wholly_and_evenly'),
    Mutation('quickstart/video/measure.py', '"even": reading.is_even,', '"even": True,', 'quickstart/video/test_measure_clip.py::test_a_jump_is_no_motion'),
    Mutation('quickstart/video/measure.py', '"motion": reading.motion == truth.motion,', '"motion": reading.motion.split()[:1] == truth.motion.split()[:1],', 'quickstart/video/test_measure_clip.py::test_each_error_fails_its_own_check'),
    Mutation('quickstart/video/measure.py', 'return max(thing.width, thing.height) < TOO_LARGE', 'return True', 'quickstart/video/test_measure_clip.py::test_clips_of_nothing_measure_wrong_and_raise_nothing'),
    Mutation('quickstart/video/dataset.py', 'stream.pix_fmt = "yuv444p"', 'stream.pix_fmt = "yuv420p"', 'quickstart/video/test_dataset.py::test_what_is_decoded_is_what_was_written'),
    Mutation('quickstart/figures.py', 'seed * 1_000_003 + start + n', 'seed * 1_000_003 + n', 'quickstart/video/test_evaluate_clips.py::test_a_clips_noise_depends_on_seed_and_number_alone'),
    Mutation('quickstart/video/evaluate.py', '            guidance_scale=guidance,\n', '            guidance_scale=1.0,\n', 'quickstart/video/test_evaluate_clips.py::test_guidance_changes_what_is_drawn'),
    Mutation('quickstart/video/showcase.py', 'render_concept=render_effect', 'render_concept=render_clip', 'quickstart/video/test_evidence_clips.py::test_what_is_held_out_is_in_no_set_that_is_trained_on'),
    Mutation('quickstart/video/showcase.py', 'pipeline=LTXConditionPipeline,', 'pipeline=__import__("diffusers").LTXPipeline,', 'quickstart/video/test_video_run.py::test_the_pipeline_is_the_one_whose_coordinates_were_trained_with'),
    Mutation('quickstart/project.py', '    _check_base(options.base)\n', '', 'quickstart/video/test_video_run.py::test_without_a_base_nothing_is_written'),
    # Control training: data, cache, sampling, export.
    Mutation("data/loader.py", '"control posterior"', '"posterior"', "test_control.py::test_identity_shows_the_media_and_encodes_nothing_more"),
    Mutation("data/loader.py", "control.mean.shape[1] for control in controls", "frames for control in controls", "test_control.py::test_the_frames_that_are_shown_are_the_controls_and_all_others_are_zero"),
    Mutation("data/plan.py", "self.latents_encoder, self.signal.identity, digest", "self.latents_encoder, digest", "test_control.py::test_a_changed_signal_is_encoded_anew"),
    Mutation("data/plan.py", 'if self.signal is None or self.signal.name == "identity":', "if self.signal is None:", "test_control.py::test_identity_shows_the_media_and_encodes_nothing_more"),
    Mutation("data/plan.py", "pixels = control_view(data, row, media.view, ", "pixels = control_view(data, row, self.latents_job(sample, 0).view, ", "test_control.py::test_control_and_media_share_crop_and_flip"),
    Mutation("encoding.py", "return clip if job.signal is None else replace(clip, pixels=_apply(job.signal, clip, job.path))", "return clip", "test_control.py::test_control_and_media_share_crop_and_flip"),
    Mutation("validate.py", "replace(trainer.conditioning.shown, dropout=0.0)", "trainer.conditioning.shown", "test_control.py::test_held_out_items_are_shown_their_control_whatever_the_dropout"),
    Mutation("conditioning/channel_concat.py", "latents = control.latents * shown", "latents = control.latents", "test_control.py::test_the_frames_that_are_shown_are_the_controls_and_all_others_are_zero"),
    Mutation("conditioning/channel_concat.py", "return torch.cat([noisy, channels, others], dim)", "return torch.cat([noisy, 0 * channels, others], dim)", "test_control.py::test_the_control_pipelines_of_diffusers_draw_what_our_sampler_draws"),
    Mutation("conditioning/channel_concat.py", "return (adapter.input_layer, *norms)", "return (adapter.input_layer,)", "test_control.py::test_norms_train_too_and_change_no_bit_at_first"),
    Mutation("tuning/base.py", "None if p is None else p.to(x.dtype)", "p", "test_control.py::test_norms_train_too_and_change_no_bit_at_first"),
    Mutation("tuning/lora.py", "settings.get(key, value) != value", "False", "test_control.py::test_weights_of_another_shape_are_refused"),
    Mutation("tuning/lora.py", "        denoiser.load_state_dict(layers, strict=False)\n", "", "models/test_contract.py::test_contract[flux dev text-to-image-control_is_learned_and_kept]"),
    Mutation("tuning/lora.py", "        set_peft_model_state_dict(denoiser, adapter, adapter_name=ADAPTER_NAME)\n", "", "models/test_contract.py::test_contract[flux dev text-to-image-control_is_learned_and_kept]"),
    Mutation("tuning/full.py", "            _load(denoiser, self._start / component)\n", "            pass\n", "models/test_contract.py::test_contract[flux dev text-to-image-control_is_learned_and_kept]"),
    Mutation("tuning/full.py", "from_config(exported_config(denoiser, facts))", "from_config(denoiser.config)", "test_control.py::test_the_control_pipelines_of_diffusers_draw_what_our_sampler_draws"),
    Mutation("sample.py", '{**request.pictures, "control": request.control}', "request.pictures", "test_control.py::test_an_edited_signal_is_drawn_anew_and_announced"),
    Mutation("budget.py", "for item in set(job.media) if item.key not in needed)", "for item in [job.latents] if item.key not in needed)", "test_control.py::test_a_small_cache_is_filled_in_windows_of_media_and_controls"),
    Mutation("sampler.py", "pad_shown(shown, padding))", "pad_shown(0 * shown, padding))", "models/test_contract.py::test_contract[ltx_video 0.9.0 text-to-video-control_is_learned_and_kept]"),
    Mutation("sampler.py", "if with_control and pixels is not None:", "if False:", "test_control.py::test_validation_draws_the_control_beside_the_result"),
    Mutation("models/flux.py", "draws_control = True", "draws_control = False", "test_control.py::test_the_control_pipelines_of_diffusers_draw_what_our_sampler_draws"),
    Mutation("checks.py", "control.frame_index >= fewest", "False", "test_control.py::test_a_frame_beyond_the_bucket_is_refused"),
    Mutation("run.py", '(("model", "adapter"), ("conditioning", "signal"))', '(("model", "adapter"),)', "test_control.py::test_paths_of_a_control_are_made_absolute"),
    Mutation("config/run.py", "is not None and not self.conditioning.has_files:", "is not None and False:", "test_control.py::test_a_control_that_nobody_looks_at_is_refused"),
    Mutation("data/signals.py", "LUMA = (19595, 38470, 7471)", "LUMA = (21845, 21846, 21845)", "data/test_signals.py::test_gray_is_the_brightness_of_bt601_and_pillows"),
    Mutation("data/signals.py", "BLUR_CUT = 4.0", "BLUR_CUT = 2.0", "data/test_signals.py::test_blur_of_a_photograph_is_the_gaussian_of_scikit_image"),
    Mutation("data/signals.py", "period = max(1, 2 * (length - 1))", "period = max(1, 2 * length)", "data/test_signals.py::test_mirror_is_numpys_reflection"),
    Mutation("data/signals.py", "sigma = min(sigma, 2.0 * length)", "sigma = min(sigma, 0.3 * length)", "data/test_signals.py::test_blur_is_the_gaussian_of_scikit_image_also_where_it_is_wider_than_the_picture"),
    Mutation("data/signals.py", 'for length in size], mode="area")', 'for length in size], mode="nearest")', "data/test_signals.py::test_downscale_knows_of_each_area_no_more_than_its_mean"),
    Mutation("data/signals.py", "thresholds = min(low, MAX_GRADIENT), min(high, MAX_GRADIENT)", "thresholds = low, high", "data/test_signals.py::test_both_thresholds_of_canny_take_effect_and_none_is_too_high"),
    Mutation("data/signals.py", "cv2.Canny(x.numpy(), *thresholds)) for x in luma(frames)", "cv2.Canny(x.numpy(), *thresholds)) for x in frames[..., 1].contiguous()", "data/test_signals.py::test_canny_is_opencvs_on_the_grey_picture"),
    Mutation("data/signals.py", "            import_opencv()\n            if config", "            if config", "data/test_signals.py::test_without_opencv_canny_is_refused_with_the_way_out"),
    Mutation("data/signals.py", "(frames.clone())", "(frames)", "data/test_signals.py::test_a_users_function_may_change_what_it_gets"),
    Mutation("own_code.py", "exec(loader.source_to_code(self.source, self.file), vars(module))", "loader.exec_module(module)", "data/test_signals.py::test_an_edited_file_is_loaded_anew_and_is_another_signal"),
    Mutation("data/signals.py", "if code.digest != digest:", "if False:", "data/test_signals.py::test_a_process_that_finds_another_file_refuses_it"),
    Mutation("data/signals.py", "            load_function(place, digest)\n", "", "data/test_signals.py::test_a_file_without_the_function_is_refused_early"),
    Mutation("data/signals.py", "result.dtype == torch.uint8 and result.shape", "result.shape", "data/test_signals.py::test_what_is_no_frames_is_refused_with_what_is_expected"),
    Mutation("data/signals.py", "[list(setting) for setting in self.parameters], self.file_digest]", "[], self.file_digest]", "data/test_signals.py::test_identity_has_the_settings_of_the_signal_and_no_others"),
    Mutation("data/signals.py", "name = self.name.rpartition(\":\")[2] if self.file_digest else self.name", "name = self.name", "data/test_signals.py::test_identity_of_a_users_function_depends_on_file_contents_and_name_but_not_on_the_place"),
    Mutation("own_code.py", "    sys.modules[loader.name] = module", "    sys.modules.pop(loader.name, None)", "data/test_signals.py::test_a_users_file_may_have_dataclasses_with_late_annotations"),
    Mutation("encoding.py", "return [] if place is None else [", "return [] if place else [", "test_encoding.py::test_an_edited_adapter_of_ones_own_encodes_anew"),
    Mutation("own_code.py", "    sys.modules[loader.name] = module", "    sys.modules.pop(loader.name, None)", "models/test_adapters.py::test_a_users_adapter_may_stand_beside_dataclasses_with_late_annotations"),
    Mutation("models/registry.py", "isinstance(adapter, type) and issubclass(adapter, ModelAdapter)", "adapter", "models/test_adapters.py::test_a_users_adapter_that_is_none_is_refused_with_the_way_out"),
    Mutation("data/shown.py", "return 1 + (u.double() * largest).long()", "return (u.double() * largest).round().long()", "data/test_shown.py::test_lengths_of_prefixes_are_uniform"),
    Mutation("data/shown.py", "u[:, 0] >= self.dropout", "u[:, 0] > 1 - self.dropout / 2", "data/test_shown.py::test_nothing_is_shown_as_often_as_is_asked_for_whatever_would_be"),
    Mutation("data/shown.py", "shown = prefix(draw_count(u[:, 1], available), frames)", "shown = prefix(draw_count(u[:, 0], available), frames)", "data/test_shown.py::test_nothing_is_shown_as_often_as_is_asked_for_whatever_would_be"),
    Mutation("data/shown.py", "(shown & prefix(available, frames) & is_kept[:, None])", "(shown & is_kept[:, None])", "data/test_shown.py::test_only_sets_of_the_kind_are_shown_and_only_of_what_there_is"),
    Mutation("data/shown.py", "        available = available.clamp(max=frames)\n", "", "data/test_shown.py::test_lengths_of_prefixes_are_uniform"),
    Mutation("data/shown.py", "    u = u.masked_fill(~prefix(available, u.shape[1]), 1.0)  # behind all draws\n", "", "data/test_shown.py::test_sizes_of_random_sets_are_uniform_and_so_are_the_sets_of_a_size"),
    Mutation("data/shown.py", "u.argsort(dim=1, stable=True)", "u.argsort(dim=1)", "data/test_shown.py::test_equal_draws_choose_the_same_in_every_batch"),
    Mutation("data/shown.py", "(frame == 0) | (frame == frames - 1)", "(frame == 0) | (frame == frames)", "data/test_shown.py::test_every_set_of_the_kind_occurs"),
    Mutation("data/shown.py", "(self._fixed(frames) & prefix(torch.tensor([available]), frames)).float()", "self._fixed(frames).float()", "data/test_shown.py::test_what_a_picture_is_drawn_with_is_all_that_training_can_show"),
    Mutation("data/catalog.py", "data.chunk, data.bucket, data.control_digests)", "data.chunk, data.bucket)", "data/test_controls.py::test_the_fingerprint_changes_with_a_control"),
    Mutation("data/catalog.py", "        is_bad[rows] = True\n", "        is_bad[rows] = role == \"media\"\n", "data/test_controls.py::test_what_breaks_later_leaves_out_the_items_of_the_file"),
    Mutation("data/look.py", "return key if role == \"media\" else f\"{key}/{role}\"", "return key", "data/test_controls.py::test_what_breaks_later_leaves_out_the_items_of_the_file"),
    Mutation("data/controls.py", "    facts = looked[rows]\n", "    facts = looked[np.arange(len(rows)) % len(looked)]\n", "data/test_controls.py::test_a_shared_control_is_looked_at_once"),
    Mutation("data/controls.py", "data.table[\"control\"][int(data.item[sample])]", "data.table[\"control\"][sample]", "data/test_controls.py::test_samples_keep_their_controls_when_chosen_and_split"),
    Mutation("data/controls.py", "recall_bad(config, files, looked, memo, role=\"control\")", "recall_bad(config, files, looked, memo, role=\"media\")", "data/test_controls.py::test_what_breaks_later_leaves_out_the_items_of_the_file"),
    Mutation("data/controls.py", "num_frames -= (num_frames - 1) % frame_step", "num_frames -= num_frames % frame_step", "data/test_controls.py::test_a_shorter_control_ends_with_a_whole_latent_frame"),
    Mutation("data/controls.py", "frame_sampling=\"start\", window=0.0, chunk=0)", "window=0.0)", "data/test_controls.py::test_a_still_is_one_frame_of_any_window"),
    Mutation("data/controls.py", "frames != own) & (control[\"num_frames\"] != 1)", "frames != own)", "data/test_controls.py::test_another_length_is_a_problem_where_it_moves_the_frames"),
    Mutation("data/controls.py", "np.where(is_larger, np.maximum(height, width), np.maximum(other_height, other_width))", "np.maximum(height, width)", "data/test_controls.py::test_one_pixel_of_the_smaller_is_the_limit"),
    Mutation("data/controls.py", "        media[\"is_good\"][row] = False\n", "        pass\n", "data/test_controls.py::test_other_proportions_are_a_problem"),
    Mutation("data/control_files.py", "None if path.startswith(\"../\") else path", "path", "data/test_controls.py::test_items_without_one_control_are_problems"),
    Mutation("data/control_files.py", "pc.if_else(is_unclear, None, found.take(pc.index_in(wanted, value_set=by_place)))", "found.take(pc.index_in(wanted, value_set=by_place))", "data/test_controls.py::test_items_without_one_control_are_problems"),
    Mutation("data/control_files.py", "pattern=r\"\\.[^./]*$\"", "pattern=r\"\\.[^/]*$\"", "data/test_controls.py::test_a_parallel_folder_serves_every_layout"),
    Mutation("data/folders.py", "inside - {_identity(folder)}", "set()", "data/test_controls.py::test_a_controls_folder_inside_the_data_set_holds_no_items"),
    Mutation("data/metadata.py", "others = [name for name in names if name != config.control_column]", "others = names", "data/test_controls.py::test_columns_of_media_and_of_controls_are_never_mistaken_for_each_other"),
    Mutation("data/metadata.py", "for name in names if name not in taken}", "for name in names}", "data/test_controls.py::test_columns_of_media_and_of_controls_are_never_mistaken_for_each_other"),
    Mutation("data/sources.py", "value_set=pa.concat_arrays(paths.values())", "value_set=paths[\"media\"]", "data/test_controls.py::test_controls_beside_their_media_are_not_unlisted"),
    # Control: widened input layers and what adapters make of channels.
    Mutation("conditioning/widen.py", "torch.cat([weight.detach()[:, :noisy], zeros, weight.detach()[:, noisy:]], dim=1)", "torch.cat([weight.detach(), zeros], dim=1)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("conditioning/widen.py", "    plain = product(_join(noisy, own, dim), _join(noisy_weight, own_weight, 1), bias)\n    return plain + product(control, control_weight, None)", "    return product(x, weight, bias)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("conditioning/widen.py", "weight, bias = layer.weight.to(x.dtype), None", "x = x.to(layer.weight.dtype)\n    weight, bias = layer.weight, None", "models/test_widening.py::test_the_layer_trains_in_float32_and_computes_in_the_type_of_its_input"),
    Mutation("conditioning/widen.py", "layer.weight.to(x.dtype), None", "layer.weight.detach().to(x.dtype), None", "models/test_widening.py::test_the_layer_trains_in_float32_and_computes_in_the_type_of_its_input"),
    Mutation("conditioning/widen.py", "else noisy.clone()", "else noisy", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("conditioning/widen.py", "plain + product(control, control_weight, None)", "plain", "models/test_widening.py::test_each_control_channel_meets_its_own_weights"),
    Mutation("conditioning/widen.py", "plain + product(control, control_weight, None)", "plain + product(control, control_weight.flip(1), None)", "models/test_widening.py::test_each_control_channel_meets_its_own_weights"),
    Mutation("conditioning/widen.py", ", requires_grad=layer.weight.requires_grad)", ")", "models/test_widening.py::test_the_layer_stays_what_it_was"),
    Mutation("conditioning/widen.py", ".train(layer.training)", "", "models/test_widening.py::test_the_layer_stays_what_it_was"),
    Mutation("conditioning/widen.py", '        changes["out_channels"] = settings["in_channels"]\n', "        pass\n", "models/test_widening.py::test_the_exported_config_makes_the_widened_denoiser"),
    Mutation("conditioning/widen.py", 'settings["in_channels"] + arranged.shape[adapter.channel_dim]}', 'settings["in_channels"] + extra}', "models/test_widening.py::test_the_exported_config_makes_the_widened_denoiser"),
    Mutation("conditioning/widen.py", "if type(layer) is nn.Linear:", "if isinstance(layer, nn.Linear):", "models/test_widening.py::test_what_cannot_be_widened_is_refused"),
    Mutation("models/base.py", "return self.frame_patch * self.patch**2", "return self.patch**2", "models/test_widening.py::test_the_exported_config_makes_the_widened_denoiser"),
    Mutation("models/flux.py", "    channel_dim = -1\n", "", "models/test_widening.py::test_channels_stay_apart_and_in_order"),
    Mutation("models/cogvideox.py", "    channel_dim = 2\n", "", "models/test_widening.py::test_channels_stay_apart_and_in_order"),
    Mutation("models/hunyuan_video.py", "control = x[:, first.shape[1] :, :1]  #", "control = torch.zeros_like(x[:, first.shape[1] :, :1])  #", "models/test_widening.py::test_each_control_channel_meets_its_own_weights"),
    Mutation("models/ltx_video.py", "reshape(len(x), -1, *x.shape[2:])", "reshape(x.shape)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("models/base.py", "(0, 0, 0, 0, 0, 0, 0, like.shape[1] - latents.shape[1])", "(0, 0, 0, 0, 0, 0, like.shape[1] - latents.shape[1], 0)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("models/wan.py", 'torch.cat([x, image["condition"]], dim=1)', 'torch.cat([x[:, :self.grid.channels], image["condition"], x[:, self.grid.channels:]], dim=1)', "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("models/cogvideox.py", "torch.cat([x, torch.cat([picture, others], dim=2)], dim=1)", "torch.cat([x[:, :self.grid.channels], torch.cat([picture, others], dim=2), x[:, self.grid.channels:]], dim=1)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("data/controls.py", "np.flatnonzero(~has_rate_of(media, control, fps=config.fps))", "np.flatnonzero(reasons == None)", "data/test_controls.py::test_another_frame_rate_is_a_problem_of_every_frame_sampling"),
    Mutation("data/controls.py", "(media[\"num_frames\"] == control[\"num_frames\"]) & (fps is None)", "media[\"num_frames\"] == control[\"num_frames\"]", "data/test_controls.py::test_frame_rates_have_to_agree_where_they_matter"),
    Mutation("data/controls.py", "is_still | is_paired | is_close", "is_paired | is_close", "data/test_controls.py::test_frame_rates_have_to_agree_where_they_matter"),
    Mutation("data/controls.py", "is_still | is_paired | is_close", "is_still | is_close", "data/test_controls.py::test_frame_rates_have_to_agree_where_they_matter"),
    Mutation("data/controls.py", "MAX_RATE_DIFFERENCE = 0.01", "MAX_RATE_DIFFERENCE = 0.03", "data/test_controls.py::test_frame_rates_have_to_agree_where_they_matter"),
    Mutation("data/controls.py", "own < min_frames", "control[\"num_frames\"] < min_frames", "data/test_controls.py::test_a_control_that_ends_before_the_frame_that_is_shown_is_a_problem"),
    Mutation("data/catalog.py", "min_frames=min_control_frames", "min_frames=1", "data/test_controls.py::test_a_control_that_ends_before_the_frame_that_is_shown_is_a_problem"),
    Mutation("prepare.py", "conditioning.shown.index * model.adapter.grid.vae_frame_step", "conditioning.shown.index", "data/test_controls.py::test_a_run_asks_for_the_frames_that_its_vae_makes_the_shown_one_of"),
    Mutation("models/vae.py", "pixels.shape[1] if clip_frames is None else clip_frames", "pixels.shape[1]", "test_control.py::test_a_shorter_control_begins_with_its_clip"),
    Mutation("data/loader.py", "torch.cat([shown[:, :1].expand(-1, padding), shown], dim=1)", "torch.cat([shown, shown[:, :1].expand(-1, padding)], dim=1)", "test_control.py::test_frames_are_counted_without_padding"),
    Mutation("checks.py", "if found not in (None, plain):", "if False:", "test_control.py::test_a_model_that_has_a_control_already_is_refused"),
    Mutation("training.py", '{"start_from": None}', "{}", "test_control.py::test_a_run_goes_on_when_what_it_began_from_is_gone"),
    Mutation("publish.py", "conditioning=_conditioning_line(config),", 'conditioning="",', "test_control.py::test_the_card_says_what_the_control_is"),
    Mutation("prompts.py", "    if len(given) < len(named):\n", "    if False:\n", "test_prompts.py::test_common_synonyms_are_the_same_keys"),
    Mutation("sample.py", "facts[\"control\"] = [*conditioning.signal.identity, ", "facts[\"control\"] = [", "test_control.py::test_an_edited_signal_is_drawn_anew_and_announced"),
    Mutation("sampler.py", 'resize="stretch" if data.resize == "stretch" else "center_crop"', 'resize="center_crop"', "test_control.py::test_the_control_of_a_prompt_is_read_as_the_data_set_is"),
    Mutation("conditioning/channel_concat.py", "channels = adapter.arrange(self._channels(control))", "channels = adapter.arrange(self._channels(control).flip(2))", "models/test_contract.py::test_contract[wan 2.1-t2v text-to-video-control_is_drawn_where_it_was_trained]"),
    Mutation("conditioning/channel_concat.py", "channels = adapter.arrange(self._channels(control))", "channels = adapter.arrange(self._channels(control).mT)", "models/test_contract.py::test_contract[flux dev text-to-image-control_is_drawn_where_it_was_trained]"),
    Mutation("conditioning/channel_concat.py", "channels = channels.to(hidden).expand(len(hidden), *channels.shape[1:])", "channels = functional.pad(channels.to(hidden), (0, 0) * (channels.ndim - 1) + (0, len(hidden) - 1))", "models/test_contract.py::test_contract[ltx_video 0.9.0 text-to-video-control_is_drawn_where_it_was_trained]"),
    Mutation("sampler.py", "pixels = signal(decode_control(", "pixels = (lambda frames: frames)(decode_control(", "models/test_contract.py::test_contract[ltx_video 0.9.0 text-to-video-control_is_drawn_where_it_was_trained]"),
    Mutation("tuning/lora.py", "getattr(pipeline, component).load_lora_adapter(directory, prefix=None, weight_name=file)\n        load_layers(pipeline, directory)", "getattr(pipeline, component).load_lora_adapter(directory, prefix=None, weight_name=file)", "test_control_runs.py::test_lokr_trains_draws_and_begins_again_with_a_control"),
    Mutation("tuning/lora.py", "{name: p.detach().cpu() for", "{name: p.detach().cpu().bfloat16() for", "test_control_runs.py::test_layers_of_a_run_in_bfloat16_are_float32_and_drawn_as_in_validation"),
    Mutation("validate.py", "trainer.ema.copy_to(trainer.parameters)", "pass", "test_control_runs.py::test_the_averages_of_the_widened_layer_are_exported"),
    Mutation("data/signals.py", 'return Signal("canny", (("low", config.canny_low), ("high", config.canny_high)))', 'return Signal("canny", (("low", 100.0), ("high", config.canny_high)))', "test_control_runs.py::test_controls_are_cached_by_the_settings_of_their_signal"),
    Mutation("sampler.py", "self._model.denoisers.trained]", "(*self._model.denoisers.trained, *self._model.denoisers.others)]", "test_control_runs.py::test_one_expert_learns_a_control_and_draws_beside_the_other"),
    Mutation("run.py", '    "conditioning",\n', "", "test_run.py::test_a_change_that_makes_it_another_run_is_refused_with_both_values[conditioning]"),
)  # fmt: skip


def run(mutation: Mutation, tree: Path) -> str:
    """Plant the defect in the copy, run its test there, and mend the copy again."""
    file = tree / "src" / "finetrainers" / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"STALE ({text.count(mutation.old)} places)"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", f"tests/{mutation.test}"],
            cwd=tree,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree / "src"), "HOME": str(tree), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.write_text(text, encoding="utf-8")
    return {0: "SURVIVED", 1: "caught"}.get(done.returncode, f"NO TEST (pytest's status {done.returncode})")


def main(words: list[str]) -> int:
    """Run the chosen mutations; 0 if all were caught."""
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.old} {m.test}" for word in words)]
    results = []
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", ".mypy_cache", ".ruff_cache", "site")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for mutation in chosen:
            results.append(run(mutation, tree))
            first = mutation.old.strip().splitlines()[0][:70]
            print(f"{results[-1]:10} {mutation.file}: {first} -> {mutation.test}", flush=True)
    print(f"{results.count('caught')} of {len(results)} defects were caught")
    return int(results.count("caught") < len(results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
