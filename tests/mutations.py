"""Promises broken on purpose: each has to be caught by the test that is named beside it.

Run on demand (``make mutations``, or ``python tests/mutations.py [WORDS ...]`` for those whose promise holds one of the
words): each defect is put into a copy of the tree, and its test is run there. A test that passes with the defect in place
is a hole. ``test_mutations.py`` sees to it that each still fits the source.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXACT = "models/test_exactness.py::test_the_transformer_is_called_as_the_pipeline_calls_it"
CONTRACT = "models/test_contract.py::test_contract"
SHARED = "distributed/test_context.py::test_two_processes_compute_the_gradients_of_one"
RESUMED = "training/test_training.py::test_resumed_equals_uninterrupted"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect."""

    promise: str
    """What happens with the defect, and never should."""
    file: str
    """Below src/finetrainers; with ``../`` before it, beside src."""
    old: str
    """Occurs exactly once in the file: short, and about the promise alone, so that other changes leave it as it is."""
    new: str
    test: str
    """Test that fails because of it: a path below tests, with ::name."""

    def place(self, root: Path) -> Path:
        """Find the file in a tree."""
        return (root / "src" / self.file if self.file.startswith("../") else root / "src/finetrainers" / self.file).resolve()


MUTATIONS = (
    # Config.
    Mutation("an unknown key is taken", "config/base.py", 'extra="forbid"', 'extra="ignore"', "config/test_load.py::test_a_wrong_key_is_one_line_with_key_value_and_way_out"),
    Mutation("a key without effect is taken", "config/base.py", "if key in self.model_fields_set:", "if False:", "config/test_load.py::test_a_setting_that_cannot_take_effect_is_an_error"),
    Mutation("a saved configuration gives another run once a default has changed", "config/load.py", "elif name not in section.idle():", "elif name in section.model_fields_set:", "config/test_load.py::test_a_changed_default_does_not_change_a_saved_run"),
    Mutation("a run with folders of masks cannot be saved", "config/load.py", " and all(isinstance(inner, Section) for inner in value.values())", "", "config/test_load.py::test_folders_and_columns_of_streams_are_dumped"),
    Mutation("an override is cut at a hash", "config/overrides.py", "    if types & TEXT:\n", "    if False:\n", "config/test_load.py::test_an_override_of_a_text_is_taken_as_it_is_given"),
    Mutation("a number with a leading zero is octal", "config/syntax.py", "    return int(text, {", "    return int(text, 0) if text else int(text, {", "config/test_load.py::test_plain_words_of_yaml_are_what_they_look_like"),
    Mutation("a file with a byte order mark has another first key", "config/syntax.py", 'encoding="utf-8-sig"', 'encoding="utf-8"', "config/test_load.py::test_a_byte_order_mark_does_not_matter"),
    Mutation("a seed that torch cannot take is found after encoding", "config/run.py", "ge=0, le=MAX_SEED", "ge=0", "config/test_load.py::test_a_wrong_key_is_one_line_with_key_value_and_way_out"),
    Mutation("the reference page lacks keys", "config/reference.py", "elif origin is dict:\n        yield", "elif origin is set:\n        yield", "config/test_reference.py::test_the_reference_lists_every_key_of_the_schema"),
    Mutation("an empty prompt is not drawn", "config/prompts.py", 'given["prompt"] = ""', "pass", "sampling/test_prompts.py::test_an_empty_prompt_is_one"),
    Mutation("what cannot train is found after encoding", "training/prepare.py", ", check_tuning):", "):", "training/test_training.py::test_what_could_not_train_is_refused_before_anything_is_encoded"),
    # Weights in fewer bits.
    Mutation('a weight at rest loses its scale', 'memory/quantize/formats.py', 'return numbers.to(dtype).mul_(scales)', 'return numbers.to(dtype)', 'memory/test_quantize.py::test_each_family_trains_on_weights_at_rest'),
    Mutation('large weights become NaN in fp8', 'memory/quantize/formats.py', 'weight.clamp(-largest, largest)', 'weight', 'memory/test_quantize.py::test_a_number_beyond_the_format_becomes_its_largest_and_not_nan'),
    Mutation('nf4 mixes up blocks of narrow layers', 'memory/quantize/formats.py', '"nf4", [1, count], dtype)', '"nf4", [count // shape[1], shape[1]], dtype)', 'memory/test_quantize.py::test_a_weight_comes_back_up_to_the_rounding_of_its_format'),
    Mutation('graphs keep weights at rest whole', 'memory/quantize/layer.py', '_product(*told) if torch.compiler.is_compiling() else _Product', '_Product.apply(*told) if torch.compiler.is_compiling() else _Product', 'memory/test_quantize.py::test_a_graph_keeps_nothing_in_full_precision_either'),
    Mutation('the backward pass keeps weights at rest whole', 'memory/quantize/layer.py', '    ctx.save_for_backward(numbers, scales)', '    ctx.save_for_backward(numbers.float(), scales)', 'memory/test_quantize.py::test_nothing_in_full_precision_is_kept_for_the_backward_pass'),
    Mutation('what a class keeps in float32 is quantised', 'memory/quantize/compress.py', ' and not _is_kept(root, name):', ':', 'memory/test_quantize.py::test_what_the_class_keeps_in_float32_does_not_rest'),
    Mutation('a model is loaded whole before its weights are compressed', 'models/weights.py', '    if not left[owner] and settle is not None:', '    if not left[owner] and settle is not None and not any(left.values()):', 'memory/test_quantize.py::test_loading_never_holds_a_second_layer_in_full'),
    Mutation("captions of quantised encoders are taken from others' cache", 'encoding/identity.py', 'encoders.append(f"weights in {weights}")', 'pass', 'memory/test_quantize.py::test_captions_are_encoded_anew_by_encoders_at_rest_and_media_are_not'),
    Mutation('weights that train are compressed', 'config/run.py', 'if self.memory.weights != "none" and self.tuning.kind == "full":', 'if False:', 'memory/test_quantize.py::test_weights_that_train_do_not_rest'),
    Mutation("a run goes on from another base", "config/run.py", '"memory.weights",\n    "memory.text', '"memory.text', "memory/test_quantize.py::test_a_run_draws_saves_resumes_bit_for_bit_and_exports"),
    Mutation('full rank does not round in training what it will export rounded', 'tuning/full.py', '        if self._qat != "none":\n', '        if False:\n', 'tuning/test_qat.py::test_plain_diffusers_loads_the_quantised_model_and_it_answers_as_what_was_trained'),
    # Batch size.
    Mutation("another micro-batch size trains something else", "optim/update.py", "1 / batch_size)", "1 / len(losses))", "training/test_training.py::test_micro_batches_change_only_rounding"),
    Mutation("a batch size that does not divide is taken", "config/train.py", "if self.batch_size % self.micro_batch_size:", "if False:", "config/test_load.py::test_a_setting_that_cannot_take_effect_is_an_error"),
    # Order.
    Mutation("the order does not depend on the seed", "data/order/order.py", "seed_of(seed, purpose, number)", "seed_of(purpose, number)", "data/test_order.py::test_seeds_give_other_orders"),
    Mutation("a step mixes buckets", "data/order/order.py", "places += (np.cumsum(in_bucket, axis=1) - in_bucket)[rows, bucket]", "places += (np.cumsum(in_bucket, axis=1) - in_bucket)[rows, bucket] // 2", "data/test_order.py::test_every_step_takes_a_full_batch_of_one_bucket"),
    Mutation("the rest of a bucket is dropped at the end of an epoch", "data/order/order.py", "return np.repeat(bucket, self.batch_size), draws.ravel(),", "return np.repeat(bucket, self.batch_size), np.maximum(draws, self._epochs.table('buckets', epochs)[np.arange(len(bucket)), bucket][:, None]).ravel(),", "data/test_order.py::test_no_sample_is_dropped_and_none_is_favoured"),
    Mutation("a random order has a number twice", "data/order/draws.py", "beyond = beyond[x[beyond] >= count[beyond]]", "x[beyond] %= count[beyond]; break", "data/test_order.py::test_a_random_order_has_each_number_once"),
    Mutation("some orders are likelier than others", "data/order/draws.py", "ROUNDS = 16", "ROUNDS = 6", "data/test_order.py::test_all_random_orders_are_equally_likely"),
    Mutation("all runs have another order after an update", "data/order/draws.py", "z += np.uint64((number + 1) * GOLDEN", "z += np.uint64((number + 2) * GOLDEN", "data/test_order.py::test_random_orders_depend_on_their_key_and_are_those_of_every_version"),
    Mutation("the orders of two epochs of a bucket are one", "data/order/order.py", "keys_of(self._epoch_seeds[bucket], epochs[rows])", "keys_of(self._epoch_seeds[bucket], rows * 0)", "data/test_order.py::test_random_orders_depend_on_their_key_and_are_those_of_every_version"),
    Mutation("a step asked for alone is another than among others", "data/order/order.py", "buckets[row : row + 1], samples[row : row + 1]", "buckets[row : row + 1], samples[row - 1 : row]", "data/test_order.py::test_many_steps_at_once_are_those_steps"),
    Mutation("an order keeps what grows with the samples", "data/order/order.py", "STEPS_AT_ONCE, DRAWS_AT_ONCE = 32, 4096", "STEPS_AT_ONCE, DRAWS_AT_ONCE = 99_999, 999_999", "data/test_order.py::test_an_order_keeps_nothing_that_grows_with_the_samples"),
    Mutation("samples that wait for a full batch are told as trained on", "data/order/order.py", "counts = drawn - self._count_groups(places,", "counts = drawn - 0 * self._count_groups(places,", "data/test_order.py::test_what_steps_take_of_each_group_is_counted_without_a_walk"),
    Mutation("each worker copies the catalog", "data/loader.py", '"fork" if sys.platform == "linux" else None', "None", "data/test_order.py::test_loader_workers_share_what_the_run_holds"),
    Mutation("a weight is of each sample, not of the set", "data/catalog/mix.py", "Fraction(str(data.config.weight)) / len(data.item)", "Fraction(str(data.config.weight)) / 1", "data/test_mixture.py::test_weights_are_shares_of_the_samples_whatever_the_sizes"),
    Mutation("samples of a set are left out of an epoch", "data/catalog/mix.py", "rate / min(rates)", "rate / max(rates)", "data/test_mixture.py::test_an_epoch_passes_once_over_the_set_that_is_shown_least_often"),
    Mutation("a weight that cannot be met is forgotten", "data/catalog/mix.py", "if not len(data.item):", "if False:", "data/test_mixture.py::test_a_weight_of_a_set_without_samples_is_an_error"),
    Mutation("the mix is told without those that stand in", "data/order/mixture.py", "if len(choices.bad.codes) else order.counts(steps)", "if False else order.counts(steps)", "data/test_mixture.py::test_the_mix_that_is_told_is_that_of_the_steps"),
    Mutation("videos are told as images", "data/order/mixture.py", "[bucket[0] == 1 for bucket", "[bucket[0] >= 1 for bucket", "data/test_mixture.py::test_clips_are_no_stills_of_another_set_of_the_same_folder"),
    Mutation("a clip becomes a still without being told to", "data/catalog/assign.py", "(facts[\"num_frames\"] > 1) & (not config.videos_as_images)", "(facts[\"num_frames\"] > 1) & False", "data/test_mixture.py::test_clips_are_no_stills_of_another_set_of_the_same_folder"),
    Mutation("a sample counts what another set says", "data/order/plan.py", "text, data.config.loss_weight)", "text, self.catalog.sets[0].config.loss_weight)", "data/test_mixture.py::test_a_run_reports_the_mix_that_it_trained_on"),
    Mutation("what a sample counts changes no gradient", "training/trainer.py", "return losses if batch.weight is None else losses * batch.weight", "return losses if batch.weight is None else losses * 1", "data/test_mixture.py::test_what_samples_count_scales_their_gradient_and_no_held_out_loss"),
    Mutation("only some data sets have a weight", "config/run.py", "if weighted and data.weight is None:", "if False:", "config/test_load.py::test_a_setting_that_cannot_take_effect_is_an_error"),
    Mutation("a step mixes pictures of different sizes or numbers", "data/catalog/catalog.py", "if not any(data.pictures for data in self.sets):", "if True:", "data/test_pictures.py::test_the_samples_of_a_step_have_equal_shapes_and_each_comes_once_an_epoch"),
    Mutation("the order depends on where the shapes of pictures come first", "data/catalog/catalog.py", "enumerate(sorted({shape for shapes, _ in found for shape in shapes}))", "enumerate(dict.fromkeys(shape for shapes, _ in found for shape in shapes))", "data/test_pictures.py::test_groups_are_numbered_by_what_the_samples_have"),
    Mutation("other references continue a run as if they were the same", "data/catalog/catalog.py", "for array in (pictures.offsets, pictures.digests, pictures.size):", "for array in (pictures.offsets, pictures.size):", "data/test_pictures.py::test_what_changes_in_references_changes_the_fingerprint"),
    Mutation("a video is taken for a reference by its first frame", "data/catalog/pictures.py", "| ~is_still)", ")", "data/test_pictures.py::test_bad_references_are_named_with_their_items"),
    Mutation("a reference that breaks when decoded is trained on", "data/catalog/dataset.py", "is_of[pictures.owners[np.isin(as_scalars(pictures.digests), digests)]] = True", "pass", "data/test_pictures.py::test_references_that_break_later_are_replaced_by_samples_of_equal_shape"),
    Mutation("a reference is read without the image of a task", "data/order/plan.py", "and not self.takes_image:", "and True:", "data/test_pictures.py::test_a_picture_that_is_target_and_reference_is_one_item"),
    Mutation("not all references of a step are encoded", "data/order/plan.py", "index - (int(ends[place - 1]) if place else 0))", "0)", "data/test_pictures.py::test_what_is_encoded_is_what_the_steps_read"),
    Mutation("some references of a sample are dropped and others shown", "data/conditions.py", "u = draw(selection.draws(own_frames - own_padding, stream), places, seed=seed)", "u = draw(selection.draws(own_frames - own_padding, name), places, seed=seed)", "data/test_pictures.py::test_all_references_of_a_step_are_shown_or_none_and_are_not_padded"),
    Mutation("a step has several experts, or frames, for its samples", "data/conditions.py", "draw(shared, torch.full_like(positions, step), seed=seed)", "draw(shared, positions, seed=seed)", "data/test_step_draws.py::test_all_samples_of_a_step_share_what_decides_the_calls"),
    Mutation("some samples of a step are shown references", "data/conditions.py", "torch.full_like(positions, step) if has_own_size else positions", "positions", "data/test_step_draws.py::test_all_samples_of_a_step_share_what_decides_the_calls"),
    Mutation("experts get equally many steps", "models/noise.py", "(draw - first) / (last - first) for draw in inner", "(number + 1) / (len(inner) + 1) for number, _ in enumerate(inner)", "data/test_step_draws.py::test_the_noise_levels_of_a_sample_are_distributed_as_without_experts"),
    Mutation("a level is rounded to the next expert's", "models/noise.py", "float(torch.tensor(high).nextafter(torch.tensor(low)))", "high", "data/test_step_draws.py::test_a_level_of_the_lower_expert_is_never_rounded_to_the_boundary"),
    Mutation("random sets have the first frame too often", "conditioning/given_frames.py", 'drawn["given first"] * frames < count', 'drawn["given first"] * frames < count + 1', "data/test_step_draws.py::test_random_sets_of_frames_are_as_likely_as_before"),
    Mutation("samples of a step are given frames or not", "conditioning/given_frames.py", '"first frame" if self.frames == "first" else "given"', '"first frame" if self.frames == "first" else "first sigma"', "data/test_step_draws.py::test_all_samples_of_a_step_share_what_decides_the_calls"),
    Mutation("the device is asked which expert answers", "batch.py", "            level=self.level,\n", "", "data/test_step_draws.py::test_the_level_of_a_batch_is_that_of_its_clip_and_stays_on_the_cpu"),
    Mutation("an expert answers another's noise levels", "models/experts.py", "if len(set(numbers)) > 1:", "if False:", "models/test_experts.py::test_noise_levels_are_answered_by_their_expert"),
    Mutation("the wrong expert answers", "models/experts.py", "experts[numbers[0]][1]", "experts[-1 - numbers[0]][1]", "models/test_experts.py::test_training_both_is_training_each_in_its_steps"),
    Mutation("processes draw experts of their own", "data/loader.py", "[self.rows], step)", "[self.rows], step + (self.rows.start or 0))", "distributed/test_equal_calls.py::test_two_processes_call_what_one_calls"),
    Mutation("what a second expert keeps is not counted", "training/cost.py", "for own in (*batches, batches[-1]):", "for own in (batches[-1], batches[-1]):", "training/test_cost.py::test_of_two_experts_both_keep_states_and_one_has_gradients"),
    Mutation("references are noisy samples of the posterior", "data/loader.py", "if stream.samples_posterior else None", "if True else None", "data/test_pictures.py::test_references_are_encoded_as_they_are_and_read_by_number"),
    Mutation("the cache's limit counts references as if they were of the bucket's size", "encoding/budget.py", "if item.stream.has_own_size else job.bucket", "if False else job.bucket", "data/test_pictures.py::test_references_are_encoded_as_they_are_and_read_by_number"),
    Mutation("edits are learned from pictures of the other side", "training/checks.py", "if data.horizontal_flip and unmirrored:", "if False:", "data/test_pictures.py::test_media_beside_pictures_of_their_own_size_are_not_mirrored"),
    Mutation("references are ordered by letters, 10 before 2", "data/sources/many.py", 'pc.rank(files, tiebreaker="dense").to_numpy(), numbers, ways', 'pc.rank(files, tiebreaker="dense").to_numpy(), ways', "data/test_many.py::test_a_folder_has_one_file_or_numbered_ones_or_a_folder_for_each_item"),
    Mutation("references whose order is unclear are taken in some order", "data/sources/many.py", "np.setdiff1d(np.flatnonzero(counts), unclear)", "np.flatnonzero(counts)", "data/test_many.py::test_items_without_files_in_a_clear_order_are_problems"),
    Mutation("an item is trained on with some of its references missing", "data/sources/named.py", 'reasons = {row: "; ".join(dict.fromkeys(own)) for row, own in wrong.items()}', "reasons: dict[int, str] = {}", "data/test_many.py::test_items_without_all_the_files_that_are_named_are_problems"),
    Mutation("two samples have one position, and so one draw", "data/order/order.py", "step * self.batch_size + np.arange", "step + np.arange", "data/test_order.py::test_positions_count_samples_without_a_gap"),
    Mutation("draws depend on the worker", "data/conditions.py", "uniform(seed, positions.numpy(), purpose)", "torch.rand(len(positions)).double().numpy()", "training/test_training.py::test_number_of_workers_changes_nothing"),
    Mutation("validation disturbs training", "training/trainer.py", "seed_device(self.device, seed_of", "(lambda *_: None)(self.device, seed_of", "training/test_training.py::test_validation_changes_nothing_in_training"),
    Mutation("noise levels are rounded to a grid", "models/noise.py", ".clamp(*SIGMA_RANGE).float()", ".clamp(*SIGMA_RANGE).mul(1000).ceil().clamp(1, 999).div(1000).float()", "objectives/test_objective.py::test_noise_levels_are_rounded_to_no_grid"),
    # Resume.
    Mutation("a resumed run forgets its averages", "training/checkpoint.py", 'update.ema.shadow_params = averages', "pass", RESUMED),
    Mutation("a resumed run forgets its optimizer's state", "optim/state.py", "optimizer.state[parameters[name]] = {key:", "_ = {key:", RESUMED),
    Mutation("a checkpoint that is asked for and not there is a start from another", "training/checkpoint.py", "self._asked_for(resume) if isinstance(resume, int) else self.latest()", "self.latest()", "training/test_training.py::test_a_checkpoint_that_is_not_there_is_an_error"),
    Mutation("a run with only damaged checkpoints starts from zero", "training/checkpoint.py", "if step is None and self.steps():", "if False:", "training/test_checkpoint.py::test_only_damaged_checkpoints_are_an_error_not_a_start_from_zero"),
    Mutation("a longer run has a learning rate that jumps at the seam", "training/run.py", "set_learning_rate(trainer.update.schedule, rate)", "pass", "training/test_training.py::test_a_longer_run_has_the_learning_rates_of_one_that_was_as_long_from_the_start"),
    Mutation("a run goes on as another run", "training/same_run.py", "if any(not _is_place(*difference) for difference in found):", "if len(found) > 1:", "training/test_run.py::test_a_change_that_makes_it_another_run_is_refused_with_both_values"),
    # Checkpoints, and what is the user's.
    Mutation("a kill leaves half a checkpoint", "files/whole.py", "        directory.rename(aside)\n    temporary", "        shutil.rmtree(directory)\n    temporary", "files/test_files.py::test_kill_at_any_operation_leaves_the_old_or_the_new"),
    Mutation("a damaged checkpoint is taken", "files/whole.py", "if hash_file(file).hex() != digest:", "if False:", "files/test_files.py::test_damage_is_found_and_named"),
    Mutation("the newest checkpoints are deleted", "training/checkpoint.py", "steps[: -self._keep]", "steps[self._keep :]", "training/test_checkpoint.py::test_the_newest_are_kept"),
    Mutation("a state between two steps is saved", "optim/update.py", "        self.is_whole = False\n        if", "        if", "training/test_training.py::test_a_state_between_two_steps_is_never_saved"),
    Mutation("half a tensor is saved as the whole", "training/staging.py", "if found != wanted:", "if False:", "training/test_state.py::test_a_part_is_not_taken_for_the_whole"),
    Mutation("what no file has is made up", "training/state.py", "        if left:", "        if False:", "training/test_state.py::test_any_box_is_read_from_the_pieces_that_have_some_of_it"),
    Mutation("training waits for the disk", "training/saving.py", "if not in_background:\n            self._background.join()", "if True:\n            self._background.join()", "training/test_saving.py::test_training_goes_on_while_a_checkpoint_is_written"),
    Mutation("a checkpoint is told before it is on the disk", "training/saving.py", "if not asked.is_writing:", "if True:", "training/test_saving.py::test_training_goes_on_while_a_checkpoint_is_written"),
    Mutation("a checkpoint holds weights of later steps", "training/staging.py", "        tensors = iter(list(tensors))\n", "", "training/test_saving.py::test_training_goes_on_while_a_checkpoint_is_written"),
    Mutation("replicas are read from the part of another process", "distributed/parts.py", "return Box(tuple(offset), tuple(shape)), tensor.to_local()", "return Box((0,) * tensor.ndim, tuple(shape)), tensor.to_local()", "distributed/test_parts.py::test_any_layout_reads_what_any_layout_saved"),
    Mutation("what one process cannot write the others take for whole", "training/checkpoint.py", "        if failed:", "        if False:", "distributed/test_parts.py::test_a_full_disk_of_one_process_is_one_error_of_all"),
    Mutation("a stray folder beside checkpoints ends every start", "files/steps.py", "STEP_NAME.fullmatch(folder.name)", "STEP_NAME.match(folder.name)", "training/test_checkpoint.py::test_what_else_lies_among_the_steps_is_left_alone"),
    Mutation("a pickle in a run directory is read, and runs code", "training/checkpoint.py", "if (directory / OLD_STATE).exists():", "if False:", "training/test_checkpoint.py::test_a_checkpoint_of_an_earlier_version_is_refused_with_the_way_out"),
    Mutation("an error loses the steps since the last checkpoint", "training/run.py", "saver.rescue(trainer, error)", "pass", "training/test_training.py::test_an_error_saves_the_steps_before_it"),
    Mutation("exported weights fill the disk", "training/export.py", "keep = config.num_kept_weights", "keep = None", "training/test_training.py::test_as_many_weights_are_kept_as_are_asked_for"),
    Mutation("the last weights are written twice", "training/saving.py", "lambda: self._checkpoints.vouches_for(weights, trainer.step)", "lambda: False", "training/test_training.py::test_the_last_weights_are_written_once"),
    Mutation("a user's folder is taken for a run, and overwritten", "training/directory.py", "    _refuse_folder_of_others(directory)\n", "", "training/test_run.py::test_a_folder_that_no_run_made_is_refused_and_left_as_it_is"),
    Mutation("a user's file beside weights is deleted with them", "training/export.py", "(directory / name).unlink(missing_ok=True)", "__import__('shutil').rmtree(directory, ignore_errors=True)", "training/test_training.py::test_what_a_user_put_beside_weights_stays"),
    Mutation("a run's own samples are data of the next start", "data/sources/folders.py", "if Path(name) != folder and is_no_data(Path(name), files):", "if False:", "training/test_training.py::test_a_run_below_its_own_data_goes_on_with_the_same_data"),
    Mutation("two processes write into one run", "training/directory.py", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "training/test_run.py::test_a_second_holder_is_refused_until_the_first_is_gone"),
    # Signals and exit status.
    Mutation("a stop has the exit status of the end", "cli/entry.py", "        return INTERRUPTED\n", "        return DONE\n", "cli/test_cli.py::test_an_error_on_purpose_is_one_message_and_its_status"),
    Mutation("a wrong configuration has the exit status of an error of ours", "cli/entry.py", "        return error.status\n", "        return INTERNAL_ERROR\n", "cli/test_cli.py::test_an_error_on_purpose_is_one_message_and_its_status"),
    Mutation("a signal waits for the end of a long draw", "sampling/sampler.py", "            self._interrupt()\n", "            pass\n", "training/test_stop.py::test_a_signal_is_seen_within_a_draw"),
    Mutation("a request to save ends the run", "training/signals.py", "        if number == SAVING:", "        if False:", "training/test_stop.py::test_a_run_saves_when_it_is_asked_to_and_goes_on"),
    Mutation("a request to save is answered again and again", "training/saving.py", "                (config.output_dir / SAVE_FILE).unlink(missing_ok=True)", "                pass", "training/test_stop.py::test_a_run_saves_when_it_is_asked_to_and_goes_on"),
    Mutation("the precision of products is not that of the run", "memory/precision.py", "    torch.set_float32_matmul_precision(precision)", "    pass", "memory/test_precision.py::test_a_run_computes_products_as_it_asks_for"),
    Mutation("gradients of micro-batches are rounded to bfloat16", "optim/kept.py", "self.stepped.grad += weight.grad", "self.stepped.grad = (self.stepped.grad + weight.grad).bfloat16().float()", "optim/test_update.py::test_gradients_of_micro_batches_add_up_in_float32"),
    Mutation("a checkpoint holds rounded weights", "optim/update.py", "            _set_parameter(self._denoiser, kept.name, kept.exact)", "            pass", "optim/test_update.py::test_masters_stand_in_the_model_only_while_they_are_saved"),
    Mutation("one graph too many goes on without compiling", "memory/compile.py", "settings.fail_on_recompile_limit_hit = True", "pass", "memory/test_compile.py::test_one_graph_too_many_ends_the_run_and_names_the_size"),
    Mutation("a closed terminal ends the run without saving", "training/signals.py", "signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)", "signal.SIGUSR1, signal.SIGINT)", "training/test_stop.py::test_a_closed_terminal_saves"),
    Mutation("the first Ctrl-C stops without saving", "training/signals.py", "if self._num_interrupts > 1:", "if self._num_interrupts > 0:", "training/test_stop.py::test_the_first_ctrl_c_saves_checkpoint_and_weights"),
    Mutation("a stop leaves no weights to draw with", "training/saving.py", "            self._export(trainer)\n        except", "            pass\n        except", "training/test_stop.py::test_the_first_ctrl_c_saves_checkpoint_and_weights"),
    # Attention.
    Mutation("a mask that hides nothing reaches attention", "models/padding.py", 'if self.are_whole else args)', 'if False else args)', "models/test_contract.py::test_contract[hunyuan_video t2v text-to-video-padding_that_is_cut_off_changes_nothing]"),
    Mutation("a mask that hides something is left out", "models/padding.py", 'self.are_whole = told["encoder_attention_mask"] is None', 'self.are_whole |= told["encoder_attention_mask"] is None', "models/test_contract.py::test_contract[hunyuan_video t2v text-to-video-padding_that_is_cut_off_changes_nothing]"),
    Mutation("prompts are cut to the shortest", "models/padding.py", 'int(lengths.max())', 'int(lengths.min())', "memory/test_attention.py::test_prompts_are_cut_to_the_longest"),
    Mutation("the attention backend changes nothing, in silence", "memory/attention.py", 'if name == NATIVE else _kernel(name)', 'if name else _kernel(name)', "models/test_contract.py::test_contract[cogview4 6b text-to-image-attention_is_computed_by_the_chosen_kernel]"),
    Mutation("a kernel of attention is chosen for the VAE, too", "memory/attention.py", 'if is_dispatched or backend in (AUTO, NATIVE):', 'if True:', "memory/test_attention.py::test_a_kernel_is_chosen_within_the_denoiser_alone"),
    Mutation("attention without masks is accepted where there are masks", "training/checks.py", 'if train not in MASKLESS:', 'if True:', "memory/test_attention.py::test_backends_without_masks_are_refused_where_there_are_masks"),
    Mutation("attention that is wrong is taken", "memory/attention_trial.py", 'if not error <= tolerance:', 'if error > 1:', "memory/test_attention.py::test_wrong_backends_do_not_pass"),
    Mutation("attention that ends its process ends the trials of the others", "memory/attention_choice.py", 'trials.append(Trial(left[0], None, end))', 'trials += [Trial(name, None, end) for name in left]', "memory/test_attention.py::test_backends_are_tried_in_processes_that_may_die"),
    Mutation("attention that is asked without a choice is tried", "memory/attention_calls.py", 'if not torch.backends.cuda.flash_sdp_enabled():', 'if True:', "memory/test_attention.py::test_calls_are_recorded_as_they_are_made"),
    Mutation("the slowest attention is taken", "memory/attention_choice.py", 'return min(taken,', 'return max(taken,', "memory/test_attention.py::test_auto_takes_the_fastest_and_a_resumed_run_keeps_it"),
    Mutation("a resumed run has another attention", "training/attention.py", 'if is_resumed else {}', 'if not is_resumed else {}', "memory/test_attention.py::test_auto_takes_the_fastest_and_a_resumed_run_keeps_it"),
    Mutation("attention is chosen for a small batch", "training/attention.py", 'largest = max(steps', 'largest = min(steps', "memory/test_attention.py::test_the_largest_batch_decides"),
    Mutation("full memory is a traceback", "memory/out_of_memory.py", "if not is_out_of_memory(error):", "if True:", "training/test_out_of_memory.py::test_it_is_a_users_error_wherever_it_happens"),
    Mutation("exported files are for their owner alone", "files/whole.py", "share_mode(temporary, of=temporary / MANIFEST)", "pass", "files/test_files.py::test_files_have_the_mode_of_the_umask"),
    # Cache.
    Mutation("another crop is read as the same item", "data/order/plan.py", "self.latents_encoder, digest, _values(pixels))\n        return LatentsJob(key, digest, data", "self.latents_encoder, digest)\n        return LatentsJob(key, digest, data", "encoding/test_encoding.py::test_what_changes_the_latents_changes_their_key"),
    Mutation("another encoder's item is read", "encoding/identity.py", "memo.digest(file).hex()", "file.name", "encoding/test_encoding.py::test_other_weights_of_an_encoder_change_the_keys"),
    Mutation("a new caption encodes the media again", "data/order/plan.py", 'make_key("latents", self.latents_encoder, digest,', 'make_key("latents", self.latents_encoder, caption_of(data, row, 0), digest,', "encoding/test_encoding.py::test_one_changed_caption_encodes_one_text_and_no_picture"),
    Mutation("a file that changed is not read again", "data/catalog/memo.py", "WHERE ref = ? AND stamp = ?\", (ref, stamp)", "WHERE ref = ?\", (ref,)", "data/test_cache.py::test_the_memo_knows_unchanged_files_only"),
    Mutation("a second run opens all media again", "encoding/shares.py", "first[~cache.known(kind, every[first])]", "first", "encoding/test_encoding.py::test_a_second_run_opens_no_media_and_loads_no_encoder"),
    Mutation("a damaged item is trained on", "data/cache/item.py", "return metadata.get(DIGEST) == digest(tensors)", "return True", "data/test_cache.py::test_damage_is_found"),
    Mutation("two runs write one temporary file", "data/cache/packs.py", "secrets.token_hex(8)}.tmp", "os.getpid()}.tmp", "data/test_cache.py::test_two_runs_with_one_process_number_write_files_of_their_own"),
    Mutation("the items that were used last are removed first", "data/cache/upkeep.py", "key=lambda one: one.used)", "key=lambda one: -one.used)", "cli/test_cli.py::test_cache_prune_removes_the_least_recently_used_first"),
    Mutation("a run removes items that another living run needs", "encoding/budget.py", ", keep=keep, since=since)", ", keep=keep)", "training/test_shared_cache.py::test_a_run_takes_nothing_from_another_that_lives"),
    Mutation("a pack is lost with the process that wrote it", "data/cache/store.py", "for name in sorted(names - known)", "for name in ()", "data/test_packs.py::test_a_writer_that_is_killed_leaves_nothing_half"),
    Mutation("a forked process shares a database", "data/cache/index.py", "if self._opened is not None and self._opened[0] != os.getpid():", "if False:", "data/test_packs.py::test_a_forked_process_opens_the_index_for_itself"),
    Mutation("an interrupted fill loses its last batch", "data/cache/store.py", "            self._batches = None\n            batches.flush()\n", "            self._batches = None\n", "data/test_packs.py::test_an_error_between_two_items_keeps_what_is_done"),
    Mutation("an item is free before it is on the disk", "encoding/shares.py", "if not self._batches.waiting:", "if True:", "encoding/test_encoding.py::test_an_item_is_claimed_until_it_is_on_the_disk"),
    Mutation("a pack goes that a living run needs", "data/cache/upkeep.py", "free = set(stored) - set(held)", "free = set(stored)", "data/test_packs.py::test_what_a_living_run_needs_of_a_pack_stays"),
    Mutation("a pack keeps the room of what is removed from it", "data/cache/upkeep.py", "for one in parts if surplus > 0 else ():", "for one in ():", "data/test_packs.py::test_a_pack_of_which_little_is_kept_gives_its_room_back"),
    Mutation("a conversion loses items", "data/cache/convert.py", "    if items:\n", "    if False:\n", "data/test_packs.py::test_items_with_a_file_each_are_converted"),
    Mutation("what moves while it is read is gone", "data/cache/store.py", "self._bytes(item, self._places([item]).get(item))", "self._bytes(item, place)", "data/test_packs.py::test_a_reader_finds_what_moves_while_it_reads"),
    Mutation("padding that counts is lost", "data/cache/item.py", "{name: _with_zeros(tensor, rows.get(name)) for", "{name: tensor for", "data/test_packs.py::test_zeros_at_the_end_of_a_text_are_not_stored"),
    Mutation("tokens that are shown are not stored", "models/padding.py", "length = int(torch.nonzero(text[facts.mask])[-1]) + 1", "length = int(torch.nonzero(text[facts.mask])[-1])", "encoding/test_encoding.py::test_padding_that_is_hidden_is_not_stored_and_training_is_the_same"),
    Mutation("the posterior is drawn in one way for all positions", "batch.py", "torch.randn(mean.shape, generator=generator)", "torch.ones(mean.shape)", "test_batch.py::test_a_posterior_is_sampled_for_each_position"),
    Mutation("padded frames draw noise of their own", "data/loader.py", "draw_latents(s.media[MEDIA.name], g, padding=padding) for", "Posterior(*(x if x is None else torch.cat([x[:, :1].expand(-1, padding, -1, -1), x], 1) for x in (s.media[MEDIA.name].mean, s.media[MEDIA.name].std))).draw(g) for", "models/test_cogvideox.py::test_padding_is_a_copy_of_what_was_drawn"),
    # Errors and bad data.
    Mutation("a refusal of the system is a traceback", "files/storage.py", "    except OSError as error:\n", "    except ZeroDivisionError as error:\n", "files/test_storage.py::test_a_file_in_the_way_is_named_with_its_key"),
    Mutation("media that break when decoded vanish in silence", "encoding/encoder.py", "failures = [clip for clip in clips if isinstance(clip, Failure)]", "failures = []", "encoding/test_encoding.py::test_media_that_break_only_when_decoded_follow_on_error"),
    Mutation("skipped samples are not named in the report", "training/finish.py", "asdict(problem) for problem in prepared.problems", "asdict(problem) for problem in ()", "encoding/test_encoding.py::test_broken_inputs_can_be_skipped_and_are_named_in_the_report"),
    Mutation("what was bad once is bad for every later run", "training/directory.py", "(directory / JOURNAL).unlink(missing_ok=True)", "pass", "training/test_left_out_runs.py::test_a_new_run_in_the_folder_of_one_that_never_saved_tries_all_again"),
    Mutation("a sample that turns out bad moves what was trained on before", "data/catalog/left_out.py", " & (steps >= self.since[places])", "", "data/test_left_out.py::test_only_positions_of_what_is_left_out_change"),
    Mutation("a clip becomes a still in silence", "data/catalog/buckets.py", "& (fewest <= frames) ", "", "data/test_buckets.py::test_what_stays_video_is_assigned_as_if_there_were_no_image_buckets"),
    Mutation("fast clips go into a model of another rate", "training/prepare.py", "        native_fps=adapter.training.native_fps,\n", "", "data/test_rates.py::test_a_run_of_a_model_of_16_frames_a_second_encodes_clips_of_30_at_16"),
    # Evidence.
    Mutation("held-out items are trained on, if another data set has them too", "data/catalog/split.py", "np.unique(np.concatenate([number[data.item] for number, data in zip(numbers, sets, strict=True)]))", "np.unique(numbers[0][sets[0].item])", "data/test_catalog.py::test_what_is_held_out_in_one_set_is_held_out_in_all"),
    Mutation("items of validation.data are trained on", "data/catalog/split.py", "data.only(~is_shared[data.item]), [", "data, [", "data/test_catalog.py::test_what_is_in_validation_data_is_not_trained_on"),
    Mutation("other weights are measured than are exported", "optim/update.py", "self.ema.copy_to(self.parameters)", "pass", "training/test_validate.py::test_what_is_measured_is_what_is_exported"),
    Mutation("weights are updated with what is not finite", "optim/update.py", "        if is_finite:\n            self._step()", "        if True:\n            self._step()", "training/test_training.py::test_a_step_that_is_not_finite_can_be_skipped_and_is_counted"),
    Mutation("equal runs export files of other bytes", "tuning/base.py", "    sort_metadata_of(file)\n", "", "training/test_export.py::test_the_header_says_what_the_file_is_and_no_more"),
    Mutation("plain diffusers draws something else with the weights", "tuning/lora.py", "{**facts.metadata, SETTINGS: to_json(settings)}", "facts.metadata", "training/test_export.py::test_flux_draws_the_same_picture_in_plain_diffusers"),
    Mutation("captions of others fit the quick start's pictures as well", "quickstart/evidence.py", "for truth, others in zip(truths, turned, strict=True)", "for truth, others in zip(truths, ([t] for t in truths), strict=True)", "quickstart/test_floor.py::test_shuffled_captions_are_at_the_floor"),
    Mutation("a benchmark that fails passes in silence", "../Makefile", '|| failed="$$failed $$file"', "|| true", "test_benchmarks.py::test_all_benchmarks_run_and_those_that_fail_are_named"),
    # Run directory and names.
    Mutation("a line that a kill cut off takes the next one with it", "training/sinks.py", '            self._write(b"\\n")\n', "            pass\n", "training/test_track.py::test_a_torn_line_costs_only_itself"),
    Mutation("an event has a field that its schema lacks", "events/record.py", '"event": self.event, **super().tree()}', '"event": self.event, "new": 1, **super().tree()}', "docs/test_docs.py::test_the_events_of_a_run_have_the_documented_fields_and_no_others"),
    Mutation("a public name goes without a word", "__init__.py", '    "sample_run",\n    "train",\n]', '    "train",\n]', "docs/test_docs.py::test_every_public_name_is_documented"),
    # Parallelism.
    Mutation("weights of another process are added up in another order", "distributed/reading.py", "own.data_ptr() % LINE_BYTES", "0", "distributed/test_shared_validation.py::test_any_number_of_prompts_on_any_number_of_processes"),
    Mutation("each process encodes what another one is at", "data/cache/claims.py", "            if error.errno in TAKEN:\n                return False\n", "", "distributed/test_shared_encoding.py::test_four_processes_make_every_item_once_and_the_cache_serves_any_number"),
    Mutation("what a dead process had begun is never made", "encoding/shares.py", "        while left := self._busy:\n", "        while left := []:\n", "distributed/test_shared_encoding.py::test_processes_of_several_runs_share_the_work_too"),
    Mutation("each process tries what another one found bad", "encoding/shares.py", "self._place.note(_failure(job))", "pass", "distributed/test_shared_encoding.py::test_what_one_process_finds_bad_all_leave_out"),
    Mutation("Ctrl-C while encoding is seen a second later", "encoding/shares.py", "        self._interrupt()\n", "", "training/test_stop.py::test_ctrl_c_while_encoding_keeps_what_is_done"),
    Mutation("processes leave out other samples", "encoding/encoder.py", "return Found.joined(every).failures", "return found.failures", "distributed/test_shared_encoding.py::test_what_one_process_finds_bad_all_leave_out"),
    Mutation("a process that lost items encodes them with those that wait for it in a step", "training/run.py", "        if self.session.world.is_alone:\n            return self.encode(", "        if True:\n            return self.encode(", "distributed/test_shared_encoding.py::test_two_processes_go_on_where_items_are_lost_and_where_the_cache_is_small"),
    Mutation("each process draws all prompts", "distributed/world.py", "return range(self.replica_index, count, self.num_replicas)", "return range(count)", "distributed/test_shared_validation.py::test_any_number_of_prompts_on_any_number_of_processes"),
    Mutation("a signal to one process leaves the others in a validation", "training/pace.py", "            self._place.look()\n", "            pass\n", "distributed/test_shared_validation.py::test_a_signal_to_one_process_stops_the_validation_of_all"),
    Mutation("a process leaves those that wait for its part of the weights", "training/pace.py", "any(self._world.replica.gather(self._has_signal))", "self._has_signal", "distributed/test_shared_validation.py::test_processes_of_one_copy_leave_together_and_at_the_same_place"),
    Mutation("each process holds shared text encoders whole", "memory/shard_encoders.py", "    fully_shard(encoder, mesh=mesh, reshard_after_forward=True)\n", "", "distributed/test_shared_encoders.py::test_encoders_of_all_families_can_be_shared"),
    Mutation("each of several processes is a run of its own in one directory", "distributed/launch.py", "    if size > 1:\n", "    if False:\n", "training/test_run.py::test_one_of_several_processes_is_refused_where_one_does_the_work"),
    # Models: they are told what their pipelines tell them.
    Mutation("latents are normalized otherwise than in the pipeline", "models/vae.py", "mean = ((mean - shift) * scale).to(vae.dtype)", "mean = (mean * scale - shift).to(vae.dtype)", "models/test_adapters.py::test_normalized_latents_go_back_to_the_picture_through_the_pipeline"),
    Mutation("FLUX is told a rounded noise level", "models/flux.py", '"timestep": sigma[:, 0],', '"timestep": sigma[:, 0].mul(1000).round().div(1000),', EXACT),
    # References.
    Mutation("a reference has the coordinate of the picture that is drawn", "models/flux.py", "picture=number, like=ids", "picture=0, like=ids", EXACT),
    Mutation("references are seen that are dropped", "conditioning/references.py", " if picture.is_shown.any()]", "]", "conditioning/test_references.py::test_whether_references_are_seen_is_known_on_the_cpu"),
    Mutation("a step waits for the device to tell who sees references", "batch.py", ", change(self.num_shown))", ")", "conditioning/test_references.py::test_whether_references_are_seen_is_known_on_the_cpu"),
    Mutation("the tenth reference comes before the second", "conditioning/references.py", 'int(name.rpartition(".")[2]) for', 'name.rpartition(".")[2] for', "conditioning/test_references.py::test_references_keep_their_order_beyond_ten"),
    Mutation("a model that takes no references is found out after encoding", "training/checks.py", "if model.task not in adapter.pictures.reference_pipelines:", "if False:", "conditioning/test_references.py::test_a_model_that_takes_no_references_is_refused_before_anything_is_loaded"),
    Mutation("what is drawn does not see its reference", "conditioning/references.py", "adapter.append_references(told, references) if references else told", "told", "conditioning/test_references.py::test_what_is_drawn_follows_the_reference"),
    Mutation("a changed reference is not drawn anew", "sampling/sample.py", "[hash_file(Path(file)).hex() for file in request.references]", "list(request.references)", "sampling/test_sample.py::test_changed_references_are_drawn_anew"),
    Mutation("the lines of the card draw another picture", "models/flux.py", '"_auto_resize": False', '"_auto_resize": True', "conditioning/test_references.py::test_the_lines_of_the_card_draw_what_our_sampler_draws"),
    Mutation("a prompt's reference is drawn with at another size", "sampling/references.py", "picture_view(sizes[chosen])", "picture_view(sizes[0])", "conditioning/test_references.py::test_a_picture_is_brought_to_the_nearest_size_and_cut_around_the_middle"),
    Mutation("LTX-Video is told one noise level for all frames", "models/ltx_video.py", "1000 * sigma.repeat_interleave(height * width, dim=1)", "1000 * sigma[:, :1].expand(-1, frames * height * width)", "models/test_adapters.py::test_ltx_takes_a_noise_level_for_each_frame"),
    Mutation("Wan starts from another frame", "models/wan.py", "((0, -1) if has_last else (0,))", "((0, 0) if has_last else (0,))", f"{EXACT}[wan 2.1-flf2v first-last-frame-to-video]"),
    Mutation("HunyuanVideo is told the given frame's noise level", "models/hunyuan_video.py", "timestep=1000 * sigma[:, -1]", "timestep=1000 * sigma[:, 0]", f"{EXACT}[hunyuan_video i2v image-to-video]"),
    Mutation("CogVideoX is told another time step", "models/cogvideox.py", "timestep=timestep_of(sigma[:, 0]),", "timestep=(1000 * sigma[:, 0]).round().long().clamp(0, 999),", "models/test_cogvideox.py::test_the_time_step_that_is_told_is_that_of_the_noise"),
    Mutation("CogView4 is told the time step after its shift", "models/cogview4.py", "1 / shift)", "1.0)", "models/test_cogview4.py::test_the_time_step_is_told_before_the_shift"),
    Mutation("an adapter whose velocity has the wrong sign passes the contract", "testing/drawn.py", "            output = -output", "            output = +output", f"{CONTRACT}[ltx_video 0.9.5 text-to-video-denoise_answers_as_the_pipeline]"),
    Mutation("LoRA over a bfloat16 base loses small updates", "optim/update.py", "(Kept if weight.dtype == torch.float32 else narrow)", "Kept", "training/test_training.py::test_lora_over_a_bfloat16_base_is_held_in_float32"),
    # Optimizers.
    Mutation("stochastic rounding is biased", "optim/rounding.py", "(x.view(torch.int32) + noise)", "(x.view(torch.int32) + noise // 2)", "optim/test_kept.py::test_rounding_is_right_in_the_mean"),
    Mutation("rounding draws the same in each step", "optim/update.py", '"rounding", self.schedule.last_epoch)', '"rounding", 0)', "optim/test_kept.py::test_draws_depend_on_seed_step_and_name_alone"),
    Mutation("all weights are rounded by one draw", "optim/kept.py", "rounding_noise(value, *seed, self.name)", "rounding_noise(value, *seed)", "optim/test_kept.py::test_draws_depend_on_seed_step_and_name_alone"),
    Mutation("without masters, gradients of micro-batches are rounded", "optim/kept.py", "self._gradient.float().add_(weight.grad)", "self._gradient.add_(weight.grad)", "optim/test_kept.py::test_gradients_of_micro_batches_add_up_in_float32_without_masters_and_are_clipped"),
    Mutation("without masters, nothing is clipped", "optim/update.py", "self._step_alone(kept, factor=self._factor)", "self._step_alone(kept)", "optim/test_kept.py::test_gradients_of_micro_batches_add_up_in_float32_without_masters_and_are_clipped"),
    Mutation("without masters, a copy in float32 stays", "optim/kept.py", "        self.stepped.data = _nothing(self.weight)\n", "", "optim/test_kept.py::test_nothing_of_rounded_weights_is_held_in_float32_between_steps"),
    Mutation("averages of bfloat16 weights stand still", "optim/update.py", "[average.float() for average in ema.shadow_params]", "list(ema.shadow_params)", "optim/test_kept.py::test_averages_of_rounded_weights_move_by_less_than_their_spacing"),
    Mutation("a step inside backward keeps its gradient", "optim/update.py", "            self._begun.add(kept.name)\n        kept.drop_gradient()", "            self._begun.add(kept.name)", "optim/test_kept.py::test_a_gradient_is_gone_before_the_next_is_made"),
    Mutation("a gradient that is not finite moves its parameter inside backward", "optim/alone.py", "tensor.copy_(torch.where(is_finite, tensor, before[path]))", "pass", "optim/test_kept.py::test_a_gradient_that_is_not_finite_changes_nothing_of_its_parameter"),
    Mutation("two threads step inside backward at once", "optim/update.py", "with self._one_by_one, kept", "with kept", "optim/test_kept.py::test_weights_of_two_threads_are_stepped_one_after_the_other"),
    Mutation("a step is counted that the model cannot take", "training/fit.py", "        check(config, model)\n    return", "        pass\n    return", "training/test_fit.py::test_what_no_techniques_make_possible_is_refused_as_without_them"),
    Mutation("what stopped a run inside backward is rescued", "training/trainer.py", "is_taken or not self.update.is_in_backward", "True", "training/test_training.py::test_a_step_inside_backward_that_is_not_finite_is_not_saved"),
    Mutation("gradients of earlier micro-batches are lost on their way to the host", "optim/kept.py", "        self.settle()\n        gradient,", "        gradient,", "optim/test_kept.py::test_the_host_holds_masters_gradients_and_state"),
    Mutation("states of few bits are rounded once more by a checkpoint", "optim/state.py", 'case Tensor() if type(value).__name__ in LOW_BIT:', 'case Tensor() if False:', "optim/test_optim.py::test_five_steps_a_checkpoint_and_five_more_are_ten_steps"),
    Mutation("Muon steps nothing but matrices", "optim/muon.py", "        if others:", "        if False:", "optim/test_every_optimizer.py::test_trains_and_goes_on_from_a_checkpoint_to_the_bit"),
    Mutation("an argument that an optimizer does not take is passed by", "optim/registry.py", "if key not in open_to:", "if False:", "optim/test_registry.py::test_unknown_names_and_arguments_are_refused_with_the_nearest"),
    Mutation("full memory suggests what would be refused", "memory/out_of_memory.py", "    except ValueError:\n        return False", "    except ValueError:\n        return True", "training/test_out_of_memory.py::test_full_rank_is_told_what_masters_and_gradients_take"),
    # Objectives.
    Mutation("a run goes on with another loss", "training/same_run.py", 'before[-1].get("objective", code.digest) != code.digest', "False", "objectives/test_own.py::test_a_run_does_not_go_on_with_another_file"),
    Mutation("the base model answers with its adapter", "tuning/lora.py", "                layer.enable_adapters(False)", "                pass", "objectives/test_own.py::test_without_its_adapter_a_model_answers_as_the_base"),
    Mutation("what a mask hides is learned", "objectives/masked.py", "self.family.mean(error * weight, noised)", "self.family.mean(error, noised)", "objectives/test_masked.py::test_where_the_mask_is_black_the_target_may_be_anything"),
    Mutation("the more is masked the less is learned of the rest", "objectives/masked.py", " / total.clamp(min=torch.finfo(total.dtype).tiny)", "", "objectives/test_masked.py::test_how_much_is_masked_does_not_change_the_scale"),
    Mutation("a black mask makes the loss undefined", "objectives/masked.py", ".clamp(min=torch.finfo(total.dtype).tiny)", "", "objectives/test_masked.py::test_an_all_black_mask_teaches_nothing"),
    Mutation("a picture masks the first frame of a clip alone", "objectives/masked.py", "self.floor) * held(batch.media[MASK.name])", "self.floor) * batch.media[MASK.name].latents", "objectives/test_masked.py::test_a_mask_that_is_shorter_than_its_clip_holds_on"),
    Mutation("nobody hears of masks that are black all over", "encoding/encoder.py", "if not mean.any():", "if False:", "objectives/test_masked.py::test_masks_that_are_black_all_over_are_named"),
    Mutation("an objective does not get the media that it names", "training/prepare.py", "streams_of(conditioning, objective)", "streams_of(conditioning)", "objectives/test_masked.py::test_an_objective_of_the_users_own_names_streams"),
    Mutation("what is rejected is preferred", "objectives/preference.py", "-self.beta / 2", "self.beta / 2", "objectives/test_preference.py::test_the_loss_is_that_of_the_paper_in_velocities"),
    Mutation("a rejected clip that is too short ends in zeros", "data/catalog/followers.py", "is_target & (own < needed)", "is_target & (own < 0)", "objectives/test_preference.py::test_a_rejected_clip_is_as_long_as_what_is_preferred"),
    # Control.
    Mutation("Control does not start as SFT", "conditioning/widen.py", "torch.cat([plain[:, :, :noisy], zeros, plain[:, :, noisy:]], dim=2)", "torch.cat([plain, zeros], dim=2)", "models/test_widening.py::test_before_training_control_changes_no_bit"),
    Mutation("a control in the wrong columns is trained to the end", "conditioning/verify.py", "int((shown == SHOWN).sum()) != batch.latents.numel() or bool((plain == SHOWN).any())", "False", "models/test_input_layout.py::test_a_wrong_layout_ends_the_run_before_its_first_step"),
    # Conditions.
    Mutation("a control is shown as often as it should be left out", "conditioning/channel_concat.py", "dropout=1 - config.probability", "dropout=config.probability", "conditioning/test_control.py::test_a_control_is_shown_with_its_probability_by_the_draws_of_earlier_versions"),
    Mutation("how a loss is computed depends on who shares the batch", "conditioning/given_frames.py", "if self.probability == 0.0:", "if not mask.any():", "conditioning/test_given.py::test_whether_there_is_a_loss_mask_does_not_depend_on_what_a_batch_draws"),
    Mutation("a frame that is given counts in the loss", "conditioning/given_frames.py", "        counts[:, 0] = torch.where(mask[:, 0], 0.0, 1.0)\n", "", "conditioning/test_given.py::test_with_probability_1_every_first_frame_is_given"),
    Mutation("held-out samples are given frames by chance", "conditioning/given_frames.py", "probability=float(self.probability == 1.0), ", "", "conditioning/test_given.py::test_what_is_measured_is_given_what_training_always_gives"),
    Mutation("given frames draw otherwise than in earlier versions", "conditioning/given_frames.py", '("first frame", "first sigma")', '("given", "first sigma")', "conditioning/test_given.py::test_the_purposes_of_the_draws_are_those_of_earlier_versions"),
    Mutation("given frames beside a control are forgotten", "training/build.py", "given_frames=prepared.given_frames,", "given_frames=type(prepared.given_frames)(),", "conditioning/test_given.py::test_given_frames_beside_a_control_draw_what_each_draws_alone"),
    Mutation("without a mask some frames count more", "objectives/flow.py", "mask = torch.ones_like(noised.sigma)", "mask = 1 + noised.sigma", "objectives/test_objective.py::test_no_mask_is_a_mask_of_all_frames"),
    Mutation("a list of conditions is another run than a single one", "training/same_run.py", 'if key == "conditioning":', "if False:", "training/test_run.py::test_conditions_are_the_same_in_whatever_form_they_are_written"),
    Mutation("a run of an earlier version cannot go on", "config/load.py", "if is_saved(path) else", "if False else", "training/test_run.py::test_a_run_from_before_given_frames_were_conditions_goes_on"),
    Mutation("a key that has moved is unknown", "config/messages.py", "about_moved(place, error['input'], tree) or ", "", "config/test_conditions.py::test_a_key_that_has_moved_is_refused_with_what_to_write"),
    Mutation("of two conditions of one kind one is ignored", "config/conditioning.py", "if kind == condition.kind:", "if False:", "config/test_conditions.py::test_a_wrong_condition_is_named_as_it_is_written"),
    Mutation("two conditions that exclude each other are taken", "config/conditioning.py", "if {kind, condition.kind} <= {*ALONE}:", "if False:", "config/test_conditions.py::test_a_control_in_channels_and_references_exclude_each_other"),
    Mutation("a message names another key than the user wrote", "config/conditioning.py", 'f"conditioning.{number}": condition', 'f"conditioning.{number + 1}": condition', "config/test_conditions.py::test_checks_beside_other_sections_name_the_place_in_the_list"),
    # Benchmarks.
    Mutation("phases of a step overlap", "training/bench/clock.py", "        self._last = now\n", "", "training/test_bench.py::test_phases_add_up_to_the_step_and_leave_no_trace"),
    Mutation("a trainer goes on being timed", "training/bench/clock.py", "del trainer.micro_losses, trainer.update.backward", "pass", "training/test_bench.py::test_phases_add_up_to_the_step_and_leave_no_trace"),
    Mutation("operations of one micro-batch are told of a step", "training/bench/operations.py", "return micro_batches * ", "return ", "training/test_bench.py::test_operations_are_those_of_all_micro_batches_and_of_what_is_computed_again"),
    Mutation("a bench with random weights downloads the model", "training/bench/run.py", 'return "random" if self.has_random_weights else "stored"', 'return "stored"', "training/test_bench.py::test_random_weights_need_the_configs_of_a_model_and_nothing_else"),
    Mutation("a bucket of two data sets is measured twice", "training/bench/run.py", "sizes = dict.fromkeys(", "sizes = list(", "training/test_bench.py::test_every_bucket_of_every_data_set_is_measured_once"),
    Mutation("a bench goes on with the techniques of a run", "training/bench/settle.py", "fit(config, is_new=True)", "fit(config)", "training/test_bench.py::test_what_is_left_to_auto_is_settled_and_nothing_is_kept"),
    Mutation("a bench chooses attention for a small bucket", "training/bench/settle.py", "size, rows = max(sizes", "size, rows = min(sizes", "training/test_bench.py::test_what_is_left_to_auto_is_settled_and_nothing_is_kept"),
    Mutation("a bench measures without the attention that is chosen", "training/bench/run.py", "    config = settle_attention(config, model, device, measuring.say)\n", "", "training/test_bench.py::test_what_is_left_to_auto_is_settled_and_nothing_is_kept"),
    Mutation("a bench measures without the memory that is chosen", "training/bench/run.py", "    config = settle_memory(config, measuring.say)\n", "", "training/test_bench.py::test_what_is_left_to_auto_is_settled_and_nothing_is_kept"),
    Mutation("optional packages drown what a command says", "cli/commands.py", '    import_quietly("diffusers.quantizers")', "    import_quietly", "cli/test_cli.py::test_optional_packages_say_nothing_of_themselves"),
    Mutation("a set that fails ends a comparison", "training/bench/compare.py", "return SetResult(name=own.name, overrides=own.set, reason=str(error))", "raise", "training/test_bench.py::test_a_set_that_fails_is_a_row_and_the_others_go_on"),
    Mutation("a comparison of which nothing ran is a success", "cli/bench.py", "else USER_ERROR", "else DONE", "training/test_bench.py::test_a_comparison_of_which_nothing_ran_is_an_error"),
    Mutation("tests on a GPU pass where there is none", "../tests/conftest.py", "if not torch.cuda.is_available():", "if False:", "testing/test_device.py::test_without_cuda_a_test_on_it_is_an_error_and_says_so"),
    Mutation("an averaged run trains its averages", "optim/update.py", "self.ema.step(self.parameters)", "self.ema.step(self.parameters), self.ema.copy_to(self.parameters)", "memory/test_techniques.py::test_it_trains_and_computes_what_it_does_without"),
    # Tables of facts.
    Mutation("a fact of a model outside of its table is ignored", "models/base.py", "        refuse_moved(cls.__name__, dir(cls))\n", "", "models/test_facts.py::test_a_name_outside_of_its_table_is_refused_with_the_new_place"),
    Mutation("a fact outside of its table is left unread", "models/base.py", "refuse_moved(cls.__name__, dir(cls))", "pass", "models/test_facts.py::test_a_name_outside_of_its_table_is_refused_with_the_new_place"),
    Mutation("a fact outside of its table is left unread if an instance sets it", "models/base.py", "refuse_moved(type(self).__name__, [name])", "pass", "models/test_facts.py::test_a_name_that_an_instance_sets_is_refused"),
    Mutation("a typing error in a table trains something else", "models/facts.py", "if value not in known:", "if False:", "models/test_facts.py::test_a_table_takes_no_value_that_nothing_would_read"),
    Mutation("what made way for an encoder does not come back", "memory/residency.py", "dropped now\n            self._let_be(self._home)", "dropped now\n            pass", "memory/test_residency.py::test_encoders_are_never_beside_the_denoiser"),
    Mutation("an expert that only draws is whole on the device", "training/prepare.py", ", experts=config.memory,", ",", "memory/test_residency.py::test_an_expert_that_draws_is_no_larger_than_the_one_that_trains"),
    Mutation("the VAE decodes beside the denoiser", "memory/residency.py", "for name in self.on_device.difference(names):", "for name in ():", "memory/test_residency.py::test_encoders_are_never_beside_the_denoiser"),
    Mutation("the VAE is loaded for each validation", "training/prepare.py", "drawing = (\"vae\", ", "drawing = (", "memory/test_residency.py::test_encoders_are_never_beside_the_denoiser"),
    Mutation("an expert that does not train is loaded for each validation", "training/prepare.py", ", *model.denoisers.frozen) if requests", ") if requests", "memory/test_residency.py::test_of_two_experts_the_one_that_draws_is_alone"),
    Mutation("blocks that wait on the host come along to the device", "memory/residency.py", "if name in names], device)", "], device)", "memory/test_residency.py::test_only_what_was_on_the_device_comes_back"),
    Mutation("what a class keeps in float32 is loaded in bfloat16", "models/weights.py", "torch.float32 if kept.intersection(name.split(\".\")) else dtype", "dtype", "models/test_weights.py::test_a_filled_shell_is_what_diffusers_loads"),
    Mutation("a tensor that the files lack stays without memory", "models/weights.py", "    if missing:\n        some", "    if False:\n        some", "models/test_weights.py::test_what_is_missing_or_of_another_shape_is_named"),
    # Blocks.
    Mutation("blocks that should be left are computed again", "memory/checkpointing.py", "if number % every]", "if number % every > every]", "memory/test_checkpointing.py::test_every_second_block_is_computed_again_and_gradients_are_the_same"),
    Mutation("attention that is kept is computed again", "memory/checkpointing.py", "else CheckpointPolicy.MUST_SAVE", "else CheckpointPolicy.PREFER_RECOMPUTE", "memory/test_checkpointing.py::test_kept_attention_is_computed_once_and_gradients_are_the_same"),
    Mutation("compiled blocks compute attention again that is kept", "memory/checkpointing.py", "use_reentrant=False, context_fn=contexts)", "use_reentrant=False)", "memory/test_checkpointing.py::test_attention_is_kept_in_compiled_blocks_too"),
    Mutation("to keep attention that nobody sees is silently nothing", "memory/checkpointing.py", "        kept.check()\n", "", "memory/test_checkpointing.py::test_attention_that_cannot_be_seen_is_refused"),
    Mutation("a key of blocks without effect is taken", "config/memory.py", "if not is_checkpointing:", "if False:", "memory/test_checkpointing.py::test_what_has_no_effect_or_cannot_go_together_is_refused"),
    Mutation("blocks of which there are none stay", "memory/techniques.py", "memory.resident_blocks >= count", "memory.resident_blocks > count", "memory/test_checkpointing.py::test_more_blocks_than_there_are_are_refused_before_weights_are_read"),
    Mutation("what is on the host stays on the device too", "memory/offload.py", "            kept.given = None\n", "", "memory/test_offload.py::test_gradients_are_the_same_and_between_blocks_nothing_is_left"),
    Mutation("a small view keeps a large tensor on the device", "memory/offload.py", "tensor.untyped_storage().nbytes() <", "tensor.nbytes <", "memory/test_offload.py::test_a_small_view_of_a_large_tensor_goes_and_what_all_blocks_share_stays"),
    Mutation("what all blocks share goes to the host for each", "memory/offload.py", " or _memory_of(tensor) in shared", "", "memory/test_offload.py::test_a_small_view_of_a_large_tensor_goes_and_what_all_blocks_share_stays"),
    Mutation("what waited comes back too late to hide", "memory/offload.py", "earlier.back = self._bring(earlier)", "pass", "memory/test_offload.py::test_the_arguments_of_the_block_before_come_ahead"),
    Mutation("what waited comes back with other strides", "memory/offload.py", "given.shape, given.stride(), given", "given.shape, given.contiguous().stride(), given", "memory/test_offload.py::test_what_comes_back_lies_as_it_lay"),
    Mutation("a block computes with the weights of the host", "memory/stream.py", "host.hold(host.tensors(self._copies[number].wait()))", "self._copies[number].wait()", "memory/test_stream.py::test_blocks_come_two_ahead_of_their_turn_up_and_down"),
    Mutation("streamed blocks come only when they are due", "memory/stream.py", "wanted = [number, *self._next(number)]", "wanted = [number]", "memory/test_stream.py::test_blocks_come_two_ahead_of_their_turn_up_and_down"),
    Mutation("validation leaves blocks on the device", "memory/stream.py", "        if torch.is_grad_enabled():\n", "        if True:\n", "memory/test_stream.py::test_blocks_come_two_ahead_of_their_turn_up_and_down"),
    Mutation("streamed blocks follow the denoiser to the device", "memory/stream.py", "self._turns[0].without(self._turns[1])", "nullcontext()", "memory/test_stream.py::test_an_adapter_stays_on_the_device_and_the_denoiser_can_be_moved"),
    Mutation("streamed weights make other bits", "memory/stream.py", "start += tensor.data_ptr() % CACHE_LINE_BYTES", "pass", "memory/test_stream.py::test_streamed_weights_make_the_same_losses_and_gradients"),
    Mutation("blocks that stay and blocks that move are compiled twice", "memory/stream.py", "    for block in blocks:\n        block.__class__", "    for block in blocks:\n        block._turns = None\n    for block in chosen:\n        block.__class__", "memory/test_stream.py::test_compiled_blocks_are_streamed_and_share_one_graph_with_those_that_stay"),
    Mutation("the device holds all blocks while they are read", "memory/settling.py", 'if not f"{name}.".startswith(self._prefixes[root]):', "if True:", "memory/test_stream.py::test_while_weights_are_read_those_that_will_be_streamed_leave_the_device"),
    # Memory that is counted.
    Mutation("attention is counted as a product of all tokens with all", "memory/meta.py", '_attention, "AutogradMeta")', '_attention, "AutogradXLA")', "memory/test_meter.py::test_attention_makes_no_product_of_all_tokens_with_all"),
    Mutation("memory that is freed stays counted", "memory/meter.py", "(storage, -storage.num_bytes)", "(storage, 0)", "memory/test_meter.py::test_the_peak_is_what_is_in_memory_at_once"),
    Mutation("gradients are not told from other memory", "training/cost.py", 'meter.label("gradients", ', 'meter.label("states", ', "training/test_cost.py::test_full_rank_holds_weights_masters_gradients_and_two_states_at_once"),
    Mutation("a set of techniques is taken that does not fit", "training/fit.py", " and trial.peak_bytes <= limit:", ":", "training/test_fit.py::test_the_fastest_that_fits_is_taken"),
    Mutation("a run that goes on is fitted anew", "training/fit.py", "SETS if before is None else (before,)", "SETS", "training/test_fit.py::test_a_run_goes_on_with_what_it_began_with"),
    # Tokens that processes share.
    Mutation("the parts of a gradient overlap: each process takes that of the first one's tokens", "distributed/context.py", "gradient.chunk(ctx.group.size(), ctx.dim)[ctx.group.rank()]", "gradient.chunk(ctx.group.size(), ctx.dim)[0]", SHARED),
    Mutation("a process sees its own part of the tokens alone", "distributed/context.py", "processor._parallel_config = config", "pass", SHARED),
    Mutation("the prompt's answer has the heads of one process", "distributed/exchange.py", "for part in (prompt, other)]", "for part in (0 * prompt, other)]", SHARED),
    Mutation("each process counts the first frame's tokens as if it had them", "distributed/context.py", "min(max(args[place] - self.rank * own, 0), own)", "min(args[place], own)", SHARED),
    Mutation("trials of attention have the heads of all processes", "memory/attention_calls.py", 'heads = context if is_among and kind == "ulysses" else 1', "heads = 1", SHARED),
    Mutation("tokens are given out before references are put behind them", "conditioning/references.py", "(append, with_kwargs=True, prepend=True)", "(append, with_kwargs=True)", "distributed/test_context.py::test_two_processes_draw_what_one_draws"),
    Mutation("frames are given as tokens that cannot be shared", "training/checks_context.py", "shape = (adapter.grid.frame_patch, *shape[1:])", "pass", "training/test_checks_context.py::test_what_cannot_be_shared_is_refused"),
    Mutation("a backend of attention sees a process's own tokens alone", "training/checks_context.py", "if backend not in (AUTO, *usable):", "if backend not in (AUTO, *usable, backend):", "training/test_checks_context.py::test_what_cannot_be_shared_is_refused"),
    Mutation("processes share more heads than there are", "training/checks_context.py", "elif plan.num_heads % context:", "elif False:", "training/test_checks_context.py::test_what_cannot_be_shared_is_refused"),
    # Many devices.
    Mutation("copies of the weights train apart", "optim/update.py", "self._world.sums([kept.gradient for kept in self._whole if", "self._world.sums([kept.gradient for kept in self._whole[:1] if", "distributed/test_table.py::test_layouts_take_the_steps_of_one_process"),
    Mutation("copies add up more than what trains, once", "distributed/world.py", "            distributed.all_reduce(flat)\n", "            distributed.all_reduce(flat.clone())\n            distributed.all_reduce(flat)\n", "distributed/test_traffic.py::test_collectives_move_what_the_layout_asks_for"),
    Mutation("what fills up shards is not counted", "testing/scale.py", "ceil(rows / processes) * processes", "rows", "distributed/test_scale.py::test_shards_are_those_of_fsdp"),
    # Weights that several processes share.
    Mutation("gradients of shared weights are means", "distributed/parallelize.py", "set_gradient_divide_factor(1.0)", "set_gradient_divide_factor(2.0)", "distributed/test_shards.py::test_two_processes_with_half_of_the_weights_take_the_steps_of_one"),
    Mutation("gathered weights are those of before an average was put in their place", "optim/update.py", "            self._sharing.let_go()\n", "            pass\n", "distributed/test_shards.py::test_two_processes_with_half_of_the_weights_take_the_steps_of_one"),
    Mutation("shared weights that have moved are gathered from where they were", "memory/residency.py", "        component._apply(function)", "        nn.Module._apply(component, function)", "distributed/test_shards.py::test_two_processes_with_half_of_the_weights_take_the_steps_of_one"),
    Mutation("weights that train are rounded where they are shared", "distributed/parallelize.py", "            value = value.float()\n", "            pass\n", "distributed/test_shards.py::test_two_processes_with_half_of_the_weights_take_the_steps_of_one"),
    Mutation("each process of a host reads all files", "training/build.py", "None if world.is_alone else SharedReading(world)", "None", "distributed/test_shards.py::test_one_process_of_a_host_reads_and_none_ever_holds_all_blocks"),
    Mutation("a device holds all blocks before they are shared out", "training/build.py", "        settle = ToShards(blocks, mesh, settle)\n", "        pass\n", "distributed/test_shards.py::test_one_process_of_a_host_reads_and_none_ever_holds_all_blocks"),
    Mutation("the norm counts each copy of a shard", "optim/update.py", " / self._world.layout.replicate", "", "distributed/test_shards.py::test_all_families_take_the_steps_of_one_process"),
    Mutation("two jobs of Slurm on one host meet each other", "distributed/launch.py",
             "port=JOB_PORTS[number % len(JOB_PORTS)],", "port=DEFAULT_PORT,",
             "distributed/test_launch.py::test_jobs_that_follow_each_other_meet_at_ports_of_their_own"),
    Mutation("a process that is gone is not missed", "distributed/watch.py",
             "and peer.rank not in self._leaving:", "and not self._peers:",
             "distributed/test_watch.py::test_a_process_whose_main_thread_is_busy_ends_as_well"),
    Mutation("processes that make different calls take each other's messages", "distributed/talk.py",
             "if message.call != call:", "if False:",
             "distributed/test_watch.py::test_a_process_that_makes_another_call_is_noticed"),
    Mutation("what was heard stays in the store", "distributed/talk.py",
             '/heard", 1) == self._size - 1:', '/heard", 1) == self._size:',
             "distributed/test_watch.py::test_what_was_heard_leaves_the_store"),
    Mutation("a signal to a process that waits for the first one stops nothing", "training/signals.py",
             "self._tell(self.received)", "pass",
             "distributed/test_survive.py::test_a_signal_while_one_process_encodes_and_the_other_waits"),
    Mutation("other data in a new place train on", "training/relocated.py",
             "if keys and before.get(name) != now[name]:", "if False:",
             "training/test_relocated.py::test_other_contents_in_a_new_place_are_refused_and_the_old_ones_go_on"),
    Mutation("a run that a launcher starts once more fails on the lock of its former process", "training/directory.py",
             "ENDING_SECONDS if attempt else 0.0", "0.0",
             "training/test_run.py::test_a_run_that_is_started_once_more_waits_for_its_former_process"),
    Mutation("what a command imports is searched for garbage as long as it runs", "cli/imports.py", "        gc.freeze()\n", "",
             "cli/test_cli.py::test_imports_are_not_searched_for_garbage_in_a_process_that_is_ours"),
    # Snapshots.
    Mutation("a file of the same size and time is taken for the old one", "data/catalog/marks.py", "stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))", "0, 0, 0))", "data/test_snapshot.py::test_a_second_start_finds_what_has_changed"),
    Mutation("files that a list names elsewhere change unnoticed", "data/catalog/snapshot.py", "            marks.add_folders(_folders_of(known.listing) or ())\n", "            return known\n", "data/test_snapshot.py::test_files_elsewhere_that_a_list_names_count_too"),
    Mutation("a damaged snapshot is trusted", "data/catalog/snapshot.py", "    if hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest() != mapped[-DIGEST_BYTES:]:", "    if False:", "data/test_snapshot.py::test_what_is_damaged_is_made_anew"),
    Mutation("what could not be read once is never read again", "data/catalog/snapshot.py", "bad = np.flatnonzero(~facts[\"is_good\"])", "bad = np.empty(0, np.int64)", "data/test_snapshot.py::test_a_bad_file_is_tried_at_each_start"),
    Mutation("what a list names and is not there is missing forever", "data/catalog/snapshot.py", "            return None if known.listing.problems else known\n", "            return known\n", "data/test_snapshot.py::test_media_that_come_after_the_list_that_names_them_are_found"),
    Mutation("with recheck: folders a list that is overwritten goes unnoticed", "data/catalog/marks.py", "            facts = _facts_of(_but_items(entries))", "            facts = _facts_of(())", "data/test_snapshot.py::test_with_folders_lists_and_folders_count_and_single_files_do_not"),
    # Raw media become a set.
    Mutation('an expression runs code', 'data/curate/expression.py', '        if found not in wanted:', '        if False:', 'data/test_curate.py::test_a_wrong_expression_says_what_is_wrong_and_runs_nothing'),
    Mutation('a clip is cut beside its scene', 'data/curate/scenes.py', 'enumerate(small_frames(medium, piece.start, piece.stop), piece.start)', 'enumerate(small_frames(medium, piece.start, piece.stop), piece.start + 1)', 'data/test_curate.py::test_a_clip_is_split_at_its_cuts'),
    Mutation('a cut clip has another frame', 'data/curate/reading.py', '(start + 0.5) / (spare + 1)', '(start + 1.5) / (spare + 2)', 'data/test_curate.py::test_a_cut_clip_has_exactly_its_frames_and_its_rate'),
    Mutation('a cut clip of no constant rate loses its times', 'data/curate/writing.py', 'stamps = range(len(times)) if rate else', 'stamps = range(len(times)) if rate is None or rate else', 'data/test_curate.py::test_a_cut_clip_of_no_constant_rate_keeps_its_times'),
    Mutation('a cut clip has other colors', 'data/curate/writing.py', 'dst_colorspace=Colorspace.ITU709', 'dst_colorspace=Colorspace.ITU601', 'data/test_curate.py::test_colors_of_a_cut_clip_are_those_that_the_trainer_sees'),
    Mutation('what stays whole is encoded anew', 'data/curate/writing.py', '    if piece.is_whole:\n        make', '    if False:\n        make', 'data/test_curate.py::test_what_stays_whole_is_copied'),
    Mutation('near duplicates that share no first band are missed', 'data/curate/hashes.py', '            if key not in bucket:\n                continue', '            if key not in bucket:\n                break', 'data/test_curate.py::test_the_index_finds_what_a_comparison_of_all_pairs_finds'),
    Mutation('a resumed preparation has forgotten what it has seen', 'data/curate/prepare.py', '            ordered[place].remember(mark)', '            pass', 'data/test_curate.py::test_a_killed_preparation_goes_on_and_ends_as_one_that_was_not'),
    Mutation('a torn line of the journal ends the preparation', 'data/curate/journal.py', '            file.truncate(end)', '            pass', 'data/test_curate.py::test_a_killed_preparation_goes_on_and_ends_as_one_that_was_not'),
    Mutation('two preparations write into one folder', 'data/curate/journal.py', 'fcntl.LOCK_EX | fcntl.LOCK_NB', 'fcntl.LOCK_SH | fcntl.LOCK_NB', 'data/test_curate.py::test_two_preparations_of_one_output_are_refused'),
    Mutation("a preparation writes into a folder of the user's", 'data/curate/journal.py', '(not output.is_dir() or any(output.iterdir()))', 'False', 'data/test_curate.py::test_an_output_of_others_is_refused_and_left_as_it_is'),
    Mutation('a bad file ends a preparation', 'data/curate/prepare.py', '            batch.failure = str(error)', '            raise', 'data/test_curate.py::test_a_bad_file_is_named_and_ends_nothing'),
    Mutation('the order of a prepared set depends on the workers', 'data/curate/pipeline.py', 'ahead((pool.submit(do, item) for item in items), AHEAD * workers)', '[pool.submit(do, item) for item in items][:: -1 if workers > 1 else 1]', 'data/test_curate.py::test_the_number_of_workers_changes_nothing'),
    Mutation('a second process makes other shards', 'data/curate/shards.py', '        if not file.exists():\n            self._write_whole(file)', '        if True:\n            self._write_whole(file)', 'data/test_curate.py::test_shards_hold_what_the_folder_holds'),
    Mutation('a full disk leaves half a clip', 'files/whole.py', '            temporary.unlink(missing_ok=True)', '            pass', 'data/test_curate.py::test_a_full_disk_ends_the_preparation_and_leaves_nothing_half'),
    Mutation('the labels of a classifier are mixed up', 'data/curate/classify.py', '{name: known[label] for name, label', '{name: known[label] - 1 for name, label', 'data/test_curate_models.py::test_a_classifier_gives_the_probabilities_of_its_labels'),
    Mutation('a caption repeats the question', 'data/curate/caption.py', 'answer = tokens[0, given:] if', 'answer = tokens[0] if', 'data/test_curate_models.py::test_a_chat_model_writes_captions_where_there_are_none'),
    # Formats.
    Mutation("a member of an archive goes on into the next", "data/media/archives.py", "min(len(buffer), self._size - self._position)", "len(buffer)", "data/test_webdataset.py::test_a_member_is_a_file_that_ends_where_it_ends"),
    Mutation("a name leads out of an archive", "data/sources/tar_shard.py", 'if member.name.startswith("/") or', 'if False and', "data/test_webdataset.py::test_a_malicious_archive_writes_runs_and_reads_nothing"),
    Mutation("a cut shard passes", "data/sources/tar_shard.py", "    if len(rest) < BLOCK:\n", "    if False:\n", "data/test_webdataset.py::test_a_truncated_shard_is_named_and_the_rest_of_it_is_kept"),
    Mutation("the rows of a group are read again and again", "data/media/cells.py", "if self._kept and row < self._kept[0][0]:", "if self._kept:", "data/test_tables.py::test_the_rows_of_a_group_are_read_once"),
    Mutation("test is trained on", "data/sources/splits.py", 'wanted = "train" if "train" in found else next(iter(found))', "return list(names), '', {}", "data/test_webdataset.py::test_the_split_is_train_unless_another_is_named"),
    Mutation("numbers in names of folders are lost", "data/sources/kohya.py", '"repeats": repeats * data', '"repeats": data', "data/test_kohya.py::test_a_folder_of_them_is_a_data_set_for_each_with_its_repeats"),
    Mutation("a setting of another tool vanishes", "config/dataset_toml.py", "    if wrong:\n", "    if False:\n", "config/test_dataset_toml.py::test_what_is_not_taken_over_is_refused"),
    # Chapters.
    Mutation("a shard comes twice in a pass", "data/order/chapters.py", "turn, place = divmod(number, len(self.refs))", "turn, place = divmod(2 * number, len(self.refs))", "data/test_chapters.py::test_each_sample_comes_once_a_pass_and_passes_differ"),
    Mutation("what a chapter leaves over never comes", "data/order/chapters.py", "            left.append(samples[full:])", "            left.append(samples[:0])", "data/test_chapters.py::test_each_sample_comes_once_a_pass_and_passes_differ"),
    Mutation("beside shards a folder begins its pass anew in each chapter", "data/order/chapters.py", "draws, turns = np.arange(start, stop) % max(1, count),", "draws, turns = np.arange(stop - start) % max(1, count),", "data/test_chapters.py::test_sets_are_mixed_in_proportion_and_each_goes_on_with_its_pass"),
    Mutation("repeats of a streamed set have no effect", "data/order/chapters.py", "Fraction(taken, len(source.refs)) / Fraction(str(source.config.repeats))", "Fraction(taken, len(source.refs))", "data/test_chapters.py::test_sets_are_mixed_in_proportion_and_each_goes_on_with_its_pass"),
    Mutation("a run that goes on forgets what a chapter had left over", "training/chapters.py", "                tuple(_rest_from_tree(rest, move) for rest, move in zip(tree[\"rests\"], moves, strict=True)),", "                begin.rests,", "data/test_chapters.py::test_a_run_that_goes_on_shows_what_would_have_come"),
    Mutation("a run goes on with numbers of other samples", "training/chapters.py", "            if old != new:\n                config", "            if False:\n                config", "data/test_chapters.py::test_a_run_does_not_go_on_in_sets_that_are_others_now"),
    Mutation("what was left over is sought where it was", "training/chapters.py", "return f\"{scheme}{now}/{name}\"", "return ref", "data/test_chapters.py::test_a_run_goes_on_with_shards_that_were_moved"),
    Mutation("in a chapter a bucket that is bad ends the run", "data/order/chapters.py", "return range(self.start, self.stop)", "return range(0)", "data/test_chapters.py::test_where_all_of_a_bucket_are_bad_another_step_of_the_chapter_comes"),
    Mutation("what a chapter leaves over stands in for nothing", "data/order/chapters.py", "pool = np.unique(np.concatenate([old, new]))", "pool = np.unique(batches)", "data/test_chapters.py::test_for_a_bad_sample_another_of_its_bucket_stands_in_though_it_is_left_over"),
    Mutation("what is held out is trained on in chapters", "data/order/chapters.py", "without_contents(self._dataset(source.config, new), self.held_out)", "without_contents(self._dataset(source.config, new), self.held_out[:0])", "data/test_chapters.py::test_what_is_held_out_comes_in_no_chapter"),
    Mutation("a network that is down leaves out samples", "data/media/remote_retry.py",
             'if kind == "passes":', 'if kind == "never":',
             "data/test_remote.py::test_trouble_that_does_not_pass_ends_a_run_and_leaves_nothing_half"),
    Mutation("a remote read that fails is not tried again", "data/media/remote_retry.py",
             'if kind_of(error) != "passes" or', 'if True or',
             "data/test_remote.py::test_trouble_that_passes_is_not_seen"),
    Mutation("an object that came in part passes for a whole one", "data/media/remote.py",
             "if size not in (-1, found):", "if False:",
             "data/test_remote.py::test_a_length_that_the_listing_does_not_know_is_not_taken"),
    Mutation("what shows no version passes for unchanged", "data/media/remote_facts.py",
             "THIS_PROCESS if version is None else version", "version",
             "data/test_remote.py::test_what_shows_no_version_is_told_apart_by_no_later_process"),
    Mutation("copies of remote files outgrow their limit", "data/media/remote_disk.py",
             "if held + size <= self.limit:", "if True:",
             "data/test_remote.py::test_copies_stay_within_their_limit_and_the_latest_stay"),
    Mutation("remote captions are fetched at every start", "data/media/remote_texts.py",
             "if row is None]", "]",
             "data/test_remote.py::test_captions_are_fetched_again_only_when_they_change"),
    Mutation("a color profile is left out", "data/media/profiles.py", "if transform is not None:", "if transform is False:", "data/test_odd_media.py::test_a_profile_of_wide_colors_is_applied"),
    Mutation("a quote that is not closed swallows rows", "data/sources/rows.py", "    _check_quotes(path)\n", "", "data/test_odd_tables.py::test_a_quote_that_is_not_closed_is_named_with_its_line"),
    Mutation("an odd error of a decoder ends the run", "data/media/files.py", "except Exception as error:", "except ZeroDivisionError as error:", "data/test_odd_media.py::test_whatever_a_decoder_raises_names_the_file"),
    Mutation("a run goes on in another order and says nothing", "training/announce.py", '    if before[-1].get("order") != ORDER_VERSION:', "    if False:", "training/test_relocated.py::test_another_order_than_when_the_run_was_begun_is_a_warning"),
    Mutation("a pack that another run writes meanwhile is lost", "data/cache/store.py", "        gone = sorted(name for name in known - names if not (self.packs / name).exists())\n", "        gone = sorted(set(self.index.packs()) - names)\n", "data/test_packs.py::test_a_pack_that_another_run_writes_meanwhile_is_not_taken_for_gone"),
    Mutation("the cache's limit counts captions with their padding", "encoding/budget.py", "        return max(self._sizes(list({job.text.key for job in jobs})), default=0)", "        return 8 * max(self._sizes(list({job.text.key for job in jobs})), default=0)", "encoding/test_encoding.py::test_captions_count_as_they_are_stored"),
    Mutation("what cannot be written of one kind takes the other along", "data/cache/writing.py", "                errors.append(error)\n", "                raise\n", "data/test_packs.py::test_what_cannot_be_written_of_one_kind_costs_nothing_of_the_other"),
    Mutation("two starts write one snapshot at once", "data/catalog/snapshot.py", "secrets.token_hex(8)}.tmp", "os.getpid()}.tmp", "data/test_snapshot.py::test_two_starts_with_one_process_number_write_files_of_their_own_and_leftovers_go"),
    Mutation("snapshots that killed starts have begun stay", "data/cache/upkeep.py", "(PACKS, LEASES, SNAPSHOTS)", "(PACKS, LEASES)", "data/test_snapshot.py::test_two_starts_with_one_process_number_write_files_of_their_own_and_leftovers_go"),
    Mutation("a cache that may only be read lacks its index", "data/cache/index.py", "if error.sqlite_errorcode & 0xFF not in CLOSED or", "if True or", "data/test_packs.py::test_a_cache_that_may_only_be_read_needs_no_index"),
    Mutation("an item of two packs goes with one of them", "data/cache/index.py", "        if packs:\n            self.add(*packs)\n", "", "data/test_packs.py::test_an_item_of_two_packs_stays_when_one_of_them_goes"),
    Mutation("a cache that may only be read lacks the packs of a killed writer", "data/cache/store.py", "                self.index.move_to_memory()\n", "", "data/test_packs.py::test_a_cache_that_may_only_be_read_serves_packs_that_its_index_lacks"),
    # Events.
    Mutation("a field of a newer version is lost when a line is read", "events/record.py", "extra={name: value for name, value in tree.items() if name not in hints}", "extra={}", "training/test_track.py::test_lines_of_other_versions_are_kept_as_they_are"),
    Mutation("an event of another version is read as if it were of this one", "events/read.py", ' and tree["v"] == VERSION', "", "training/test_track.py::test_lines_of_other_versions_are_kept_as_they_are"),
    Mutation("a number that JSON lacks is read as text", "events/record.py", "    if hint == Number:\n        return float(value)\n", "", "training/test_track.py::test_an_event_read_back_is_the_event"),
    Mutation("a field that is not given is written as null", "events/record.py", " if value is not None or default is MISSING}", "}", "training/test_track.py::test_events_are_lines_that_the_schema_knows"),
    # The best step, and an early end.
    Mutation("a run that gets no better goes on", "training/outcomes.py", "trainer.is_over = self.stopped_early = True", "self.stopped_early = True", "training/test_outcomes.py::test_a_run_that_gets_no_better_stops_and_keeps_the_best"),
    Mutation("a run that goes on forgets what it had validated", "training/outcomes.py", "step <= last and step not in self.losses", "step == last", "training/test_outcomes.py::test_an_interrupted_run_stops_where_an_uninterrupted_one_does"),
    Mutation("the best checkpoint is deleted", "training/checkpoint.py", " - {self.spared(steps)}", "", "training/test_outcomes.py::test_a_run_that_gets_no_better_stops_and_keeps_the_best"),
    Mutation("the weights of the best step are deleted", "training/export.py", "        if step != kept:\n", "        if True:\n", "training/test_outcomes.py::test_a_run_that_gets_no_better_stops_and_keeps_the_best"),
    Mutation("a best step has no checkpoint where none was due", "training/outcomes.py", "if config.checkpoint.keep_best and step and best_step", "if False and best_step", "training/test_outcomes.py::test_a_best_step_without_a_checkpoint_of_its_own_gets_one"),
    Mutation("the baseline is the best step, which has no weights", "training/outcomes.py", "for step in losses if step and (among", "for step in losses if (among", "training/test_outcomes.py::test_the_best_step_is_the_first_of_the_lowest_and_never_the_baseline"),
    Mutation("patience waits for a loss that nothing measures", "config/validation.py", 'dict.fromkeys(("max_items", "patience"), reason)', 'dict.fromkeys(("max_items",), reason)', "training/test_outcomes.py::test_what_needs_a_held_out_loss_is_refused_without"),
    # Items, and alarms.
    Mutation("items are measured at noise of their own, and cannot be compared", "training/validate.py", "*grid, has_own_noise=False)", "*grid)", "training/test_validate.py::test_items_are_measured_at_the_same_noise_each_time_and_held_out_samples_at_their_own"),
    Mutation("items of the validation are removed from a full cache", "training/prepared.py", "for job in self.measured for key in job.keys", "for job in self.held_out for key in job.keys", "training/test_validate.py::test_items_stay_in_a_cache_with_a_limit"),
    Mutation("what an item's loss was at first is what it is now", "training/item_losses.py", 'first.get(str(item["key"]))', 'float(item["loss"])', "training/test_validate.py::test_the_easiest_and_the_hardest_items_are_named"),
    Mutation("an alarm is told again at each validation", "training/alarms.py", "return [name for name in now if name not in before]", "return now", "training/test_alarms.py::test_a_held_out_loss_that_does_not_move_is_told_of_once"),
    Mutation("a run that goes on tells an alarm again", "training/alarms.py", 'update(event.get("about", [ALL]))', "update(())", "training/test_alarms.py::test_a_held_out_loss_that_does_not_move_is_told_of_once"),
    Mutation("an item that was always easy is called never learnt", "training/alarm_rules.py", " and figures.items[key][1] >= hard", "", "training/test_alarms.py::test_an_item_that_stays_hard_while_others_are_learnt_is_named"),
    Mutation("a norm that is as noisy as ever is a jump", "training/alarm_rules.py", "JUMP, SPIKE = 10.0, 50.0", "JUMP, SPIKE = 2.0, 4.0", "training/test_alarms.py::test_norms_of_runs_that_are_well_do_not_jump"),
    Mutation("a held-out loss that rises with the training loss is called overfitting", "training/alarm_rules.py", "return training[-1] < training[max(1, lowest)]", "return True", "training/test_alarms.py::test_a_held_out_loss_rises_where_the_training_loss_falls"),
)  # fmt: skip


def run(mutation: Mutation, tree: Path) -> str:
    """Plant the defect in the copy, run its test there, and mend the copy again."""
    file = mutation.place(tree)
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
    chosen = [m for m in MUTATIONS if not words or any(word in m.promise for word in words)]
    results = []
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", ".mypy_cache", ".ruff_cache", "site")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for mutation in chosen:
            results.append(run(mutation, tree))
            print(f"{results[-1]:10} {mutation.promise} ({mutation.file}) -> {mutation.test}", flush=True)
    print(f"{results.count('caught')} of {len(results)} broken promises were caught")
    return int(not results or results.count("caught") < len(results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
