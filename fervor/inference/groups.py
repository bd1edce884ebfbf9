"""Frames -> groups that are worked on together."""

from collections.abc import Iterable, Iterator

from fervor.io.frame import Frame


__all__ = ["groups_of"]

GROUP_PIXELS = 16_000_000
"""Pictures found together: at most so many pixels (64 MB) or one, whatever the batch size."""
TOGETHER = 4
"""Pictures of such a group at most: fewer take more time each, more leave cores idle at the end."""


def groups_of(frames: Iterable[Frame], size: int, at_once: int) -> Iterator[list[Frame]]:
    """Frames in groups of `size`, fewer of large pictures; a webcam's come one by one.

    Where several groups are worked on at once they hold TOGETHER at most and begin with one, so
    that few pictures keep all cores at work and the first answers come early.
    """
    pixels_held = GROUP_PIXELS // (at_once + 1 if at_once > 1 else 1)  # one more is ready
    group: list[Frame] = []
    number = pixels = 0
    for frame in frames:
        group.append(frame)
        pixels += frame.pixels
        limit = size if at_once == 1 else min(size, TOGETHER, 1 + number // at_once)
        if len(group) >= limit or pixels >= pixels_held or frame.live:
            yield group
            group, pixels, number = [], 0, number + 1
    if group:
        yield group
