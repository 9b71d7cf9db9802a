"""What is to be drawn."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One picture or video to generate."""

    prompt: str
    size: tuple[int, int, int]
    """(frames, height, width)."""
    steps: int
    seed: int
    guidance: float | None = None
    """None takes the pipeline's own default."""
    negative_prompt: str | None = None
    fps: float | None = None
    """Frames per second; None takes the family's default."""
    image: str | None = None
    """Path of the picture to start from, for tasks that take one."""
    last_image: str | None = None
    """Path of the picture to end with, for tasks that take one."""
    control: str | None = None
    """Path of the image or video that the control signal is made of; None shows nothing of one."""
    references: tuple[str, ...] = ()
    """Paths of the pictures that the denoiser is shown at their own size, in their order."""

    @property
    def pictures(self) -> dict[str, str | None]:
        """Paths of all pictures, by the pipeline's names."""
        return {"image": self.image, "last_image": self.last_image}
