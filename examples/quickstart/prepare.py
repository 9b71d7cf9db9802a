"""Fill quickstart-run/ with what the example trains on: real photographs with captions, and a tiny random Flux.

The photographs come with scikit-image. They are of many kinds on purpose: colour and grey, upright and wide, 300 to 1411
pixels a side. Nothing is downloaded.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import skimage

CAPTIONS = {
    "astronaut.png": "a woman in an orange space suit, smiling, in front of a flag and a model of the space shuttle",
    "brick.png": "a wall of bricks, seen from the front, black and white",
    "camera.png": "a man in a dark coat looks through a film camera on a tripod in a field, black and white",
    "chelsea.png": "the face of a tabby cat with green eyes, close up",
    "clock_motion.png": "a round clock, blurred by motion, black and white",
    "coffee.png": "a cup of black coffee on a saucer with a spoon on a wooden table, seen from above",
    "coins.png": "rows of old coins on a dark ground, black and white",
    "grass.png": "blades of grass, seen from above, black and white",
    "gravel.png": "small stones of gravel, seen from above, black and white",
    "hubble_deep_field.jpg": "many small and large galaxies on the black sky",
    "moon.png": "craters on the surface of the moon, black and white",
    "motorcycle_left.png": "a red motorcycle in a workshop full of tools",
    "retina.jpg": "the retina of an eye, orange with dark vessels, on black",
    "rocket.jpg": "a white rocket on its launch pad, with a cloud of steam around it",
}


def main(folder: Path) -> None:
    """Write the photographs and the model; remove an earlier run, so that this one starts at step 0."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    photographs = folder / "photographs"
    photographs.mkdir(parents=True, exist_ok=True)
    source = Path(skimage.__file__).parent / "data"
    for name, caption in CAPTIONS.items():
        if not (photographs / name).exists():
            shutil.copyfile(source / name, photographs / name)
        (photographs / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    print(f"{len(CAPTIONS)} photographs with captions: {photographs}")  # noqa: T201 - a script
    model = folder / "tiny-flux"
    if not (model / "model_index.json").exists():
        subprocess.run([sys.executable, "-m", "finetrainers", "models", "tiny", "flux", str(model)], check=True)


if __name__ == "__main__":
    main(Path("quickstart-run"))
