"""Settings of diffusion-pipe that nothing here does, or that say what is so here anyway."""

IDLE = {
    "steps_per_print": "track.every is 1",
    "logging_steps": "track.every is 1",
    "partition_method": "layers are not divided",
    "partition_split": "layers are not divided",
    "eval_before_first_step": "step 0 is always measured",
    "eval_micro_batch_size_per_gpu": "held-out samples are measured one by one, and none is dropped",
    "image_eval_micro_batch_size_per_gpu": "held-out samples are measured one by one, and none is dropped",
    "eval_gradient_accumulation_steps": "held-out samples are measured one by one, and none is dropped",
    "disable_block_swap_for_eval": "memory.resident_blocks holds for all",
    "x_axis_examples": "events.jsonl has both",
    "reentrant_activation_checkpointing": "which kind is used follows from memory",
    "model.cache_text_embeddings": "captions are always encoded before",
    "adapter.dtype": "adapters have float32 masters",
    "monitoring.wandb_run_name": "a run is named after output_dir",
    "map_num_proc": "cache.workers is for what is decoded",
    "model.text_encoder_fp8": "memory.text_encoder_weights does that",
}
ONE_FILE = "weights in files of their own are not read; model.path names the same model in diffusers layout"
LOST = {
    **{f"model.{key}": ONE_FILE for key in ("transformer_path", "vae_path", "llm_path", "clip_path", "single_file_path")},
    "monitoring.wandb_api_key": "log in with `wandb login`; a key is not part of a configuration",
    "save_dtype": "adapters are saved in float32, fully fine-tuned weights in model.dtype",
    "image_micro_batch_size_per_gpu": "all buckets have one batch size; give train.micro_batch_size for the largest",
    "pseudo_huber_c": "the loss is the squared error; one of yours is objective.kind: file.py:Name",
    "huber_delta": "the loss is the squared error; one of yours is objective.kind: file.py:Name",
    "smooth_l1_beta": "the loss is the squared error; one of yours is objective.kind: file.py:Name",
    "checkpoint_every_n_minutes": "a checkpoint is written every checkpoint.every steps, in the background",
    "checkpoint_every_n_epochs": "a checkpoint is written every checkpoint.every steps, in the background",
    "resume_from_checkpoint": "states of other tools are not read; a run here resumes by itself",
    "regenerate_cache": "what has changed is encoded again by itself",
    "uncond_fraction": "data.N.caption_dropout does that",
    "adapter.rank_dropout": "tuning.dropout drops inputs of LoRA, and layers of LoKr; nothing drops single ranks",
    "adapter.init_from_existing": "tuning.start_from is a folder of weights that a run here has exported",
    "adapter.fuse_adapters": "merge them into the model before, and give its folder as model.path",
    "adapter.exclude_modules": "write tuning.targets, a regular expression without them",
    "model.bypass_guidance_embedding": "the family's own guidance is trained with",
    "model.guidance": "the family's own guidance is trained with",
    "model.merge_adapters": "merge them into the model before, and give its folder as model.path",
}
UNKNOWN = "is not known here; see docs/configuration.md for what there is"
