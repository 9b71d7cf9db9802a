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
    Mutation("config/load.py", "for _side in (_Loader, _Dumper):", "for _side in (_Loader,):", "config/test_load.py::test_what_is_dumped_loads_as_an_equal_configuration"),
    Mutation("config/load.py", "json.dumps(tree, default=str), strict=True)", "json.dumps(tree, default=str))", "config/test_load.py::test_a_wrong_key_is_one_line_with_key_value_and_way_out"),
    Mutation("config/load.py", "if key.value in names[:index]:", "if False:", "config/test_load.py::test_a_file_that_cannot_be_read_is_named_with_the_reason"),
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
    Mutation("objective.py", "own = torch.minimum(GIVEN_FRAME_MAX_SIGMA * u[:, 2].float(), sigma[:, 0])", "own = GIVEN_FRAME_MAX_SIGMA * u[:, 2].float()", "test_objective.py::test_a_given_frame_is_never_noisier_than_its_clip"),
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
    Mutation("sample.py", '"request": {**asdict(request), "image": image},', '"request": request.prompt,', "test_sample.py::test_each_request_has_its_name"),
    Mutation("tuning/full.py", 'subfolder="{denoiser}", torch_dtype={dtype})', 'subfolder="{denoiser}", torch_dtype="auto")', "test_export.py::test_the_snippet_of_the_model_card_runs"),
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
    Mutation("data/loader.py", 'uniform(seed, positions.numpy(), p)', "torch.rand(len(positions)).double().numpy()", "test_training.py::test_number_of_workers_changes_nothing"),
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
    Mutation("tuning/lora.py", 'f"{name}_lora_adapter_metadata": denoiser.peft_config[ADAPTER_NAME].to_dict(),', "", "test_export.py::test_flux_draws_the_same_picture_in_plain_diffusers"),
    Mutation("validate.py", "trainer.ema.copy_to(trainer.parameters)", "pass", "test_validate.py::test_what_is_measured_is_what_is_exported"),
    Mutation("validate.py", "stack.callback(trainer.ema.restore, trainer.parameters)", "pass", "test_validate.py::test_what_is_measured_is_what_is_exported"),
    Mutation("validate.py", "content = int(job.latents.key[:15], 16)", "content = torch.seed() >> 1", "test_validate.py::test_the_baseline_depends_on_model_and_held_out_data_alone"),
    # Adapters.
    Mutation("models/flux.py", "timestep=sigma[:, 0],", "timestep=sigma[:, 0].mul(1000).round().div(1000),", "models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it"),
    Mutation("models/flux.py", "folded.permute(0, 2, 4, 1, 3, 5).reshape(batch", "folded.permute(0, 2, 4, 1, 5, 3).reshape(batch", "models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it"),
    Mutation("models/ltx_video.py", "1000 * sigma.repeat_interleave(height * width, dim=1)", "1000 * sigma[:, :1].expand(-1, frames * height * width)", "models/test_adapters.py::test_ltx_takes_a_noise_level_for_each_frame"),
    Mutation("models/ltx_video.py", "(self.grid.vae_frame_step / fps)", "(self.grid.vae_frame_step / 25 + 0 * fps)", "models/test_adapters.py::test_ltx_is_told_the_frame_rate"),
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
