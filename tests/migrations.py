"""Configurations and commands as people have them for other trainers: what test_migrate.py translates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tree = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A main configuration, and the files that it names; of a command, the options are the main configuration."""

    main: str
    """Name of the file; of a command, the words before its options."""
    tree: Tree
    files: Mapping[str, Any] = field(default_factory=dict)
    """Trees, and texts, by the names of files."""

    def write(self, folder: Path) -> str:
        """Write all files; return what ``migrate`` is given."""
        for name, content in self.files.items():
            write(folder / name, content)
        if " " not in self.main:
            write(folder / self.main, self.tree)
            return self.main
        return f"{self.main} {' '.join(words(self.tree))}"


def write(file: Path, content: Any) -> None:
    """Write a tree by the suffix of its file, or a text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        content = to_toml(content) if file.suffix == ".toml" else json.dumps(content, indent=1)  # which is YAML as well
    file.write_text(content)


def words(options: Tree) -> list[str]:
    """Options of a command line."""
    found: list[str] = []
    for name, value in options.items():
        if value is True:
            found.append(f"--{name}")
        elif value is not False:
            values = value if isinstance(value, list) else [value]
            found += [f"--{name}", *(f"'{item}'" for item in values)]
    return found


def to_toml(tree: Tree, table: str = "") -> str:
    """Write a tree of tables, lists of tables and plain values."""
    plain = {key: value for key, value in tree.items() if not is_table(value)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in tree.items():
        name = f"{table}{key}"
        if isinstance(value, dict):
            lines += [f"[{name}]", to_toml(value, f"{name}.")]
        elif is_table(value):
            lines += [f"[[{name}]]\n{to_toml(item, f'{name}.')}" for item in value]
    return "\n".join(lines)


def is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    )


LTX = Source(
    "torchrun --nproc_per_node 2 train.py",
    {
        "parallel_backend": "ptd", "pp_degree": 1, "dp_degree": 2, "dp_shards": 1, "cp_degree": 1, "tp_degree": 1,
        "model_name": "ltx_video", "pretrained_model_name_or_path": "Lightricks/LTX-Video", "revision": "main",
        "text_encoder_dtype": "fp32", "vae_id": "models/vae",
        "dataset_config": "training.json", "dataset_shuffle_buffer_size": 10, "enable_precomputation": True,
        "precomputation_items": 25, "dataloader_num_workers": 1, "flow_weighting_scheme": "logit_normal",
        "flow_logit_mean": 0.5, "training_type": "lora", "seed": 7, "batch_size": 2, "train_steps": 5000, "rank": 32,
        "lora_alpha": 16, "target_modules": "transformer_blocks.*(to_q|to_k)", "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True, "checkpointing_steps": 1000, "checkpointing_limit": 3, "enable_slicing": True,
        "enable_tiling": True, "optimizer": "adamw", "lr": 5e-5, "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 100, "lr_num_cycles": 1, "beta1": 0.8, "beta2": 0.99, "weight_decay": 1e-3, "epsilon": 1e-7,
        "max_grad_norm": 0.5, "validation_dataset_file": "validation.json", "validation_steps": 500,
        "tracker_name": "crush", "report_to": "wandb", "output_dir": "runs/crush", "nccl_timeout": 600,
        "layerwise_upcasting_modules": "transformer", "layerwise_upcasting_storage_dtype": "float8_e5m2",
        "compile_modules": "transformer", "hub_token": "hf_secret", "attn_provider_training": "transformer:flash",
        "resume_from_checkpoint": "latest",
    },
    {
        "training.json": {
            "datasets": [
                {
                    "data_root": "someone/crush", "dataset_type": "video", "id_token": "CRUSH",
                    "video_resolution_buckets": [[49, 512, 768], [1, 512, 768]], "reshape_mode": "bicubic",
                    "remove_common_llm_caption_prefixes": True, "colour": "warm",
                }
            ]
        },
        "validation.json": {
            "data": [{"caption": "CRUSH a cube", "image_path": None, "height": 512, "width": 768, "num_frames": 49,
                      "frame_rate": 25, "num_inference_steps": 50}]
        },
    },
)  # fmt: skip
WAN_CONTROL = Source(
    "python train.py",
    {
        "model_name": "wan", "pretrained_model_name_or_path": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "training_type": "control-lora", "control_type": "canny", "frame_conditioning_type": "index",
        "frame_conditioning_index": 2, "frame_conditioning_concatenate_mask": True, "train_qk_norm": True, "rank": 128,
        "lora_alpha": 128, "dataset_config": "training.json", "flow_shift": 3.0, "flow_weighting_scheme": "cosmap",
    },
    {"training.json": {"datasets": [{"dataset_file": "data/list.csv", "dataset_type": "image",
                                     "image_resolution_buckets": [[480, 832]], "reshape_mode": "random_crop"}]}},
)  # fmt: skip
MUSUBI_WAN = Source(
    "accelerate launch --num_processes 2 --mixed_precision bf16 src/musubi_tuner/wan_train_network.py",
    {
        "task": "t2v-1.3B", "dit": "wan.safetensors", "t5": "umt5.pth", "dataset_config": "dataset.toml", "sdpa": True,
        "mixed_precision": "bf16", "fp8_base": True, "fp8_scaled": True, "optimizer_type": "adamw8bit",
        "optimizer_args": ["weight_decay=0.05", "betas=0.9,0.98"], "learning_rate": 2e-4, "gradient_checkpointing": True,
        "gradient_accumulation_steps": 2, "max_data_loader_n_workers": 3, "lr_scheduler": "cosine", "lr_warmup_steps": 5,
        "network_module": "networks.lora_wan", "network_dim": 32, "network_alpha": 16, "timestep_sampling": "shift",
        "discrete_flow_shift": 3.0, "blocks_to_swap": 20, "max_train_epochs": 16, "save_every_n_epochs": 1, "seed": 42,
        "sample_prompts": "prompts.txt", "sample_every_n_epochs": 2, "output_dir": "out", "output_name": "fox",
        "log_with": "wandb", "log_tracker_name": "foxes", "scale_weight_norms": 1.0, "made_up": 3, "vae_tiling": True,
    },
    {
        "dataset.toml": {
            "general": {"resolution": [832, 480], "caption_extension": ".txt", "batch_size": 2, "enable_bucket": True},
            "datasets": [{"video_directory": "clips", "cache_directory": "cache", "target_frames": [1, 25],
                          "frame_extraction": "uniform", "frame_sample": 2, "num_repeats": 10, "source_fps": 30.0}],
        },
        "prompts.txt": "# samples\na red fox runs --w 832 --h 480 --f 49 --d 7 --s 20 --g 5.0 --n blurry --ofs 2\na fox\n",
        **{f"clips/{number}.mp4": "" for number in range(6)},
    },
)  # fmt: skip
MUSUBI_KONTEXT = Source(
    "python flux_kontext_train_network.py",
    {
        "dit": "kontext.safetensors", "dataset_config": "dataset.toml", "network_module": "networks.lora_flux",
        "network_dim": 16, "timestep_sampling": "flux_shift", "learning_rate": 1e-4, "max_train_steps": 800,
        "save_every_n_steps": 200, "optimizer_type": "prodigy", "output_dir": "out", "flash_attn": True, "fp8_t5": True,
    },
    {"dataset.toml": {"datasets": [{"image_directory": "after", "control_directory": "before", "resolution": 1024,
                                    "no_resize_control": True}]}},
)  # fmt: skip
AI_FLUX = Source(
    "job.yaml",
    {
        "job": "extension",
        "config": {
            "name": "sks",
            "process": [
                {
                    "type": "sd_trainer", "training_folder": "output", "device": "cuda:0", "trigger_word": "sks dog",
                    "network": {"type": "lora", "linear": 16, "linear_alpha": 8},
                    "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4, "push_to_hub": True,
                             "hf_repo_id": "me/sks", "hf_private": True},
                    "datasets": [{"folder_path": "photos", "caption_ext": "txt", "caption_dropout_rate": 0.05,
                                  "shuffle_tokens": True, "cache_latents_to_disk": True, "resolution": [512, 1024],
                                  "flip_x": True, "num_repeats": 3, "colour": "warm"}],
                    "train": {"batch_size": 2, "steps": 2000, "gradient_accumulation": 4, "train_unet": True,
                              "train_text_encoder": False, "gradient_checkpointing": True, "noise_scheduler": "flowmatch",
                              "optimizer": "adamw8bit", "lr": 1e-4, "optimizer_params": {"weight_decay": 1e-4},
                              "ema_config": {"use_ema": True, "ema_decay": 0.99}, "dtype": "bf16",
                              "timestep_type": "sigmoid", "content_or_style": "style", "max_grad_norm": 2.0},
                    "model": {"name_or_path": "black-forest-labs/FLUX.1-dev", "is_flux": True, "quantize": True,
                              "low_vram": True},
                    "sample": {"sampler": "flowmatch", "sample_every": 250, "width": 1024, "height": 768,
                               "prompts": ["[trigger] at the beach", "a horse"], "neg": "", "seed": 42, "walk_seed": True,
                               "guidance_scale": 4, "sample_steps": 20},
                    "logging": {"use_wandb": True, "project_name": "dogs"},
                }
            ],
        },
        "meta": {"version": "1.0"},
    },
)  # fmt: skip
AI_WAN = Source(
    "job.yaml",
    {
        "job": "extension",
        "config": {
            "name": "walk",
            "process": [
                {
                    "type": "diffusion_trainer", "training_folder": "output",
                    "network": {"type": "lokr", "lokr_full_rank": True, "lokr_factor": 8},
                    "datasets": [{"folder_path": "clips", "num_frames": 41, "shrink_video_to_frames": False, "fps": 16,
                                  "resolution": 512, "is_reg": True, "mask_path": "masks"}],
                    "train": {"batch_size": 1, "steps": 3000, "gradient_accumulation_steps": 2, "optimizer": "adafactor",
                              "lr": 5e-5, "dtype": "bf16", "timestep_type": "linear", "reg_weight": 0.25,
                              "switch_boundary_every": 10, "disable_sampling": True},
                    "model": {"name_or_path": "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "arch": "wan22_14b",
                              "model_kwargs": {"train_high_noise": True, "train_low_noise": False},
                              "quantize_te": True, "qtype_te": "qint8", "layer_offloading": True},
                }
            ],
        },
    },
)  # fmt: skip
SIMPLE_FLUX = Source(
    "config/config.json",
    {
        "--resume_from_checkpoint": "latest", "--data_backend_config": "config/data.json", "--seed": 42,
        "--output_dir": "output/models", "--lora_type": "lycoris", "--lycoris_config": "config/lycoris.json",
        "--max_train_steps": 10000, "--num_train_epochs": 0, "--checkpoint_step_interval": 250,
        "--checkpoints_total_limit": 3, "--hub_model_id": "me/dogs", "--push_to_hub": "true",
        "--tracker_project_name": "dogs", "--report_to": "wandb", "--model_type": "lora", "--model_family": "flux",
        "--model_flavour": "dev", "--train_batch_size": 2, "--gradient_accumulation_steps": "3", "--num_processes": 2,
        "--gradient_checkpointing": "true", "--caption_dropout_probability": 0.2, "--resolution": 1024,
        "--validation_seed": 42, "--validation_step_interval": 500, "--validation_resolution": "1024x768",
        "--validation_guidance": 3.0, "--validation_num_inference_steps": "20", "--validation_prompt": "a dog",
        "--mixed_precision": "bf16", "--optimizer": "adamw_bf16", "--optimizer_config": "weight_decay=0.1,betas=0.9,0.95",
        "--learning_rate": "1e-4", "--lr_scheduler": "polynomial", "--lr_warmup_steps": 100, "--max_grad_norm": 0.5,
        "--grad_clip_method": "norm", "--crepa_enabled": True, "--disable_benchmark": "false",
        "--base_model_precision": "int8-quanto",
    },
    {
        "config/lycoris.json": {"algo": "lokr", "multiplier": 1.0, "linear_dim": 16, "linear_alpha": 8, "factor": 12,
                                "apply_preset": {"target_module": ["Attention"]}},
        "config/data.json": [
            {"id": "a", "type": "local", "instance_data_dir": "dogs", "crop": False, "minimum_image_size": 512,
             "resolution": 1024, "resolution_type": "pixel_area", "repeats": 10, "caption_strategy": "textfile",
             "cache_dir_vae": "cache/vae", "prepend_instance_prompt": True, "instance_prompt": "sks"},
            {"id": "b", "type": "local", "instance_data_dir": "others", "crop": True, "crop_style": "center",
             "crop_aspect": "square", "resolution": 0.5, "resolution_type": "area", "caption_strategy": "filename",
             "is_regularisation_data": True},
            {"id": "t", "dataset_type": "text_embeds", "default": True, "type": "local", "cache_dir": "cache/text"},
        ],
    },
)  # fmt: skip
SIMPLE_WAN = Source(
    "config.json",
    {
        "model_family": "wan", "model_type": "lora", "lora_rank": 16, "lora_type": "standard", "max_train_steps": 200,
        "data_backend_config": "data.json", "learning_rate": 6e-5, "train_batch_size": 1, "optimizer": "optimi-lion",
        "lr_scheduler": "constant", "mixed_precision": "bf16", "vae_enable_tiling": True, "flow_schedule_shift": 5,
        "use_ema": True, "report_to": "tensorboard", "attention_mechanism": "flash-attn", "tread_config": {"routes": [1]},
    },
    {"data.json": [{"id": "v", "type": "huggingface", "dataset_name": "someone/clips", "dataset_type": "video",
                    "caption_strategy": "huggingface", "crop": False, "resolution": 480,
                    "huggingface": {"video_column": "clip", "caption_column": "prompt", "split": "train"},
                    "video": {"num_frames": 49, "min_frames": 49}}]},
)  # fmt: skip
PIPE_HUNYUAN = Source(
    "hunyuan.toml",
    {
        "output_dir": "runs/hv", "dataset": "data.toml", "epochs": 100, "max_steps": 400, "micro_batch_size_per_gpu": 1,
        "pipeline_stages": 2, "gradient_accumulation_steps": 4, "gradient_clipping": 0.5, "warmup_steps": 10,
        "blocks_to_swap": 20, "save_every_n_epochs": 2, "checkpoint_every_n_minutes": 120, "eval_every_n_steps": 50,
        "activation_checkpointing": "unsloth", "caching_batch_size": 2, "video_clip_mode": "single_middle",
        "save_dtype": "bfloat16", "steps_per_print": 1, "eval_datasets": [{"name": "held", "config": "held.toml"}],
        "model": {"type": "hunyuan-video", "ckpt_path": "ckpts", "llm_path": "llava", "dtype": "bfloat16",
                  "transformer_dtype": "float8", "timestep_sample_method": "logit_normal", "shift": 7.0},
        "adapter": {"type": "lora", "rank": 32, "dtype": "bfloat16"},
        "optimizer": {"type": "adamw_optimi", "lr": 2e-5, "betas": [0.9, 0.99], "weight_decay": 0.02, "eps": 1e-7},
        "monitoring": {"enable_wandb": True, "wandb_api_key": "secret", "wandb_tracker_name": "hv"},
        "made_up": 3,
    },
    {
        "data.toml": {"resolutions": [512, 768], "enable_ar_bucket": True, "min_ar": 0.5, "max_ar": 1.8,
                      "num_ar_buckets": 7, "frame_buckets": [1, 33],
                      "directory": [{"path": "clips", "num_repeats": 5, "cache_shuffle_num": 3},
                                    {"path": "clips", "resolutions": [512], "ar_buckets": [[448, 576], [1, 1]]}]},
        "held.toml": {"resolutions": [512], "directory": [{"path": "held"}]},
        **{f"clips/{number}.mp4": "" for number in range(8)},
    },
)  # fmt: skip
PIPE_WAN = Source(
    "wan.toml",
    {
        "output_dir": "runs/wan", "dataset": "data.toml", "max_steps": 1000, "save_every_n_steps": 100,
        "model": {"type": "wan", "ckpt_path": "models/Wan2.2-T2V-A14B", "dtype": "bfloat16", "min_t": 0.0, "max_t": 0.875},
        "adapter": {"type": "lokr", "rank": 1e6, "decompose_factor": 4},
        "optimizer": {"type": "Lion", "lr": 1e-5, "betas": [0.9, 0.99], "weight_decay": 0.01},
    },
    {"data.toml": {"size_buckets": [[832, 480, 33]], "directory": [{"path": "clips", "mask_path": "masks",
                                                                    "caption_prefix": "walk "}]}},
)  # fmt: skip
SOURCES = {
    "finetrainers-ltx": LTX, "finetrainers-wan-control": WAN_CONTROL, "musubi-wan": MUSUBI_WAN,
    "musubi-kontext": MUSUBI_KONTEXT, "ai-toolkit-flux": AI_FLUX, "ai-toolkit-wan": AI_WAN, "simpletuner-flux": SIMPLE_FLUX,
    "simpletuner-wan": SIMPLE_WAN, "diffusion-pipe-hunyuan": PIPE_HUNYUAN, "diffusion-pipe-wan": PIPE_WAN,
}  # fmt: skip
