"""Interlaced frames, whose even and odd lines are of two moments, become whole ones of the second, as players show them."""

from collections.abc import Iterable, Iterator

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

FILTER = "bwdif", "mode=send_frame:deint=interlaced"
"""FFmpeg's, which keeps lines that do not move; frames that are not marked as interlaced pass unchanged."""


def deinterlaced(frames: Iterable[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield as many frames as come, with their time stamps; those of progressive video as they are."""
    graph: Graph | None = None
    shape = None
    for frame in frames:
        if graph is not None and shape != _shape(frame):
            yield from _pushed(graph, None, stream)
            graph = None
        if graph is None:
            if not frame.interlaced_frame:
                yield frame
                continue
            graph, shape = _graph(frame, stream), _shape(frame)
        yield from _pushed(graph, frame, stream)
    if graph is not None:
        yield from _pushed(graph, None, stream)


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.height, frame.width, frame.format.name


def _graph(frame: VideoFrame, stream: VideoStream) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, name="source", time_base=stream.time_base
    )
    change, sink = graph.add(*FILTER), graph.add("buffersink")
    source.link_to(change)
    change.link_to(sink)
    graph.configure()
    return graph


def _pushed(graph: Graph, frame: VideoFrame | None, stream: VideoStream) -> Iterator[VideoFrame]:
    """Hand a frame, or the end, to the filter, which looks one frame ahead, and yield what it has done."""
    graph.push(frame)
    while True:
        try:
            done = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(done, VideoFrame)
        if done.pts is not None and done.time_base and stream.time_base:
            done.pts = round(done.pts * done.time_base / stream.time_base)  # the filter counts in half steps
            done.time_base = stream.time_base
        yield done
