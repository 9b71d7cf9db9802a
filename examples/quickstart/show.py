"""Print what the quick start's run has left, and the numbers that say whether it learned."""

import json
from pathlib import Path


def main(run: Path) -> None:
    """Read report.json and say where everything is."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    weights, validation = (sorted((run / name).glob("step-*"))[-1] for name in ("weights", "validation"))
    (_, before), *_, (_, after) = report["held_out_losses"]
    print(f"""
The quick start is done: {report["steps"]} optimizer steps on {report["num_samples"]} photographs.

  held-out loss  {before:.3f} before, {after:.3f} after, on photographs that training never saw
  weights        {weights}  (README.md there says how to load them in diffusers)
  samples        {validation}  (from a tiny random model: noise, whatever the prompt)
  report         {run / "report.json"}
  events         {run / "events.jsonl"}

To train a real model, change model.path and data in examples/quickstart/config.yaml; README.md has an example.""")  # noqa: T201 - a script


if __name__ == "__main__":
    main(Path("quickstart-run/run"))
