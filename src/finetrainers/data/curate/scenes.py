"""Split clips at their cuts, with PySceneDetect's detectors on frames that are decoded here."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetrainers.compat.packages import install_extra
from finetrainers.config.curate import ScenesStep
from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.reading import reading, small_frames
from finetrainers.data.curate.registry import Context, Step, register_step
from finetrainers.errors import ConfigError

THRESHOLDS = {"adaptive": 3.0, "content": 27.0}
"""Those of PySceneDetect's detectors."""


class SplitScenes(Step):
    """Makes a piece of each scene."""

    splits = True

    def __init__(self, config: ScenesStep) -> None:
        self._config = config

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        if not piece.medium.is_video:
            return [piece]
        cuts, margin = self._cuts(piece), self._config.margin
        bounds = [piece.start, *cuts, piece.stop]
        scenes: list[Outcome] = []
        for start, stop in itertools.pairwise(bounds):
            first = start + (margin if start > piece.start else 0)
            last = stop - (margin if stop < piece.stop else 0)
            scene = replace(piece, start=first, stop=last)
            if first < last:
                scenes.append(scene)
            else:
                scenes.append(
                    Dropped(replace(piece, start=start, stop=stop), f"a scene of {stop - start} frames is all margin")
                )
        return scenes

    def _cuts(self, piece: Piece) -> list[int]:
        """First frames of all scenes but the first."""
        from scenedetect import FrameTimecode

        medium = piece.medium
        detector, cuts, time = self._detector(), [], None
        for number, picture in enumerate(small_frames(medium, piece.start, piece.stop), piece.start):
            time = FrameTimecode(number, fps=medium.info.fps)
            with reading(medium.path):
                cuts += detector.process_frame(time, picture)
        if time is not None:
            cuts += detector.post_process(time)
        return sorted({cut.frame_num for cut in cuts} - {piece.start})

    def _detector(self) -> Any:  # a SceneDetector: the package is optional
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        config = self._config
        threshold = THRESHOLDS[config.detector] if config.threshold is None else config.threshold
        if config.detector == "content":
            return ContentDetector(threshold, min_scene_len=config.min_seconds)
        return AdaptiveDetector(threshold, min_scene_len=config.min_seconds)


@register_step("scenes")
def make(config: ScenesStep, context: Context) -> list[Step]:
    """Make the step; PySceneDetect is looked for now, and not at the first clip."""
    try:
        import scenedetect.detectors  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{context.key}.kind: scenes needs PySceneDetect ({error}): {install_extra('curate')}") from None
    return [SplitScenes(config)]
