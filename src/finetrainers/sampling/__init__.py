"""Pictures and videos from prompts, with a family's own diffusers pipeline."""
