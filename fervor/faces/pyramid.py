"""Image pyramids in overlapping tiles: every face is seen whole, and large enough, in one of them.

The finest level shows the smallest face at SEEN pixels; each coarser one shrinks the image by
LEVEL_RATIO more. A level that is larger than a tile is cut into tiles, which overlap by more than
the largest face that the level answers for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fervor.faces.anchors import Letterbox, letterbox


__all__ = ["FINEST", "SEEN", "Tile", "finest_scale", "pyramid"]

SEEN = 40
"""Longer side, in pixels of the network's input, from which on every face is found. Of those with
32 pixels a tenth is missed (docs/detection.md)."""
ENOUGH = 36
"""The same of a face in the whole image that makes a finer level needless, so that an image of 700
pixels does not take twice the time."""
FINEST = 2.5
"""Scale of the finest level at most: enlarging more shows nothing new."""
LEVEL_RATIO = 3
"""From one level to the next: a face of SEEN pixels in a level has 120 in the finer one."""
LARGEST = 128.0
"""Longer side, in pixels of the network's input, of the largest face that a level answers for.
Larger ones are seen in a coarser level too, where blurred textures pass for faces less often."""
LARGEST_CERTAIN, MIN_SCORE = 256.0, 0.9
"""The same for faces of so high a score: what was pasted into an image, without the surroundings of
a face, is missed where it is small."""
TILE_MARGIN = 160
"""Pixels of the network's input that neighbouring tiles share: the largest face, and some 16 around
it."""
TILE_SIDE = 1280
"""Pixels of the network's input along either side of a tile at most, which takes 90 MB."""
BORDER = 14
"""Pixels of the network's input: a box that comes as near to a tile's edge may be cut off by it."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of an image, at whole pixels, as it is put to the network.

    Attributes:
        x, y: its left and top edge in the image.
        frame: its size, and how it lies in the network's input.
        scale: of its level, in pixels of the network's input per pixel of the image; None where it
            is the whole image, which answers for faces of all sizes.
    """

    x: int
    y: int
    frame: Letterbox
    scale: float | None = None

    @property
    def region(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in the image."""
        return (self.x, self.y, self.x + self.frame.width, self.y + self.frame.height)

    def answers_for(
        self, box: tuple[float, float, float, float], score: float, *, height: int, width: int
    ) -> bool:
        """Whether a face found in it (x, y, width, height in the image) counts.

        It does not where it is too large for the level, or where the tile's edge, unless it is the
        edge of the image of `height` x `width`, may have cut it off: another tile shows it whole.
        """
        if self.scale is None:
            return True
        border = BORDER / self.scale
        left, top, right, bottom = self.region
        return (
            max(box[2:]) * self.scale <= (LARGEST_CERTAIN if score >= MIN_SCORE else LARGEST)
            and (left == 0 or box[0] >= left + border)
            and (top == 0 or box[1] >= top + border)
            and (right == width or box[0] + box[2] <= right - border)
            and (bottom == height or box[1] + box[3] <= bottom - border)
        )


def finest_scale(smallest: float) -> float:
    """Pixels of the network's input per pixel of an image whose smallest faces are to be found."""
    return min(SEEN / smallest, FINEST)


def pyramid(height: int, width: int, *, smallest: float, coarsest: int) -> Iterator[Tile]:
    """The tiles of all levels that the whole image cannot stand for, finest first.

    An image so narrow that it shows half of the smallest face at most has none.

    Args:
        smallest: longer side in pixels of the smallest face that is to be found.
        coarsest: longer side of the whole image in the network's input.
    """
    scale, whole = finest_scale(smallest), coarsest / max(height, width)
    if 2 * scale * min(height, width) < SEEN:
        return
    largest = SEEN / scale  # that no level has answered for yet
    while whole * largest < ENOUGH:
        yield from _level(height, width, scale)
        largest, scale = LARGEST / scale, scale / LEVEL_RATIO


def _level(height: int, width: int, scale: float) -> Iterator[Tile]:
    """Row by row, in tiles of one size."""
    tile_height, tops = _cut(height, scale)
    tile_width, lefts = _cut(width, scale)
    longer = max(1, round(max(tile_height, tile_width) * scale))
    frame = letterbox(tile_height, tile_width, low=longer, high=longer)
    return (Tile(left, top, frame, scale) for top in tops for left in lefts)


def _cut(length: int, scale: float) -> tuple[int, list[int]]:
    """Length of the pieces of one side, in pixels of the image, and where they begin."""
    side, iou = int(TILE_SIDE / scale), int(TILE_MARGIN / scale)
    if length <= side:
        return length, [0]
    count = -(-(length - iou) // (side - iou))
    piece = -(-(length + (count - 1) * iou) // count)
    return piece, [(length - piece) * number // (count - 1) for number in range(count)]
