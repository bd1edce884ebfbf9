"""The tiles of a pyramid show every face whole and large enough, at a bounded cost."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fervor.faces.pyramid import BORDER, ENOUGH, FINEST, SEEN, TILE_SIDE, Tile, pyramid


COARSEST = 640
SIDES = st.integers(1, 40_000)


def seen_whole(box: tuple[float, ...], size: tuple[int, int], smallest: float) -> bool:
    """Whether a tile, or the whole picture at COARSEST pixels, shows a face as large as it must."""
    height, width = size
    longer, needed = max(box[2:]), 0.98 * SEEN
    if longer * COARSEST / max(size) >= ENOUGH:
        return True
    return any(
        longer / float(tile.frame.scale.max()) >= needed
        and tile.answers_for(box, 0.7, height=height, width=width)
        for tile in pyramid(height, width, smallest=smallest, coarsest=COARSEST)
        if tile.x <= box[0]
        and tile.y <= box[1]
        and box[0] + box[2] <= tile.x + tile.frame.width
        and box[1] + box[3] <= tile.y + tile.frame.height
    )


@settings(max_examples=300)
@example(20_000, 1500, 40.0, 0.0, 0.5, 0.5)
@example(641, 480, 40.0, 0.0, 1.0, 0.0)
@given(
    SIDES,
    SIDES,
    st.floats(SEEN / FINEST, 400),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_face_is_seen_whole_and_large_enough(
    width: int, height: int, smallest: float, growth: float, across: float, down: float
) -> None:
    largest = min(width, height)
    if largest < smallest:
        return
    side = smallest * (largest / smallest) ** growth
    box = (across * (width - 0.8 * side), down * (height - side), 0.8 * side, side)
    assert seen_whole(box, (height, width), smallest)


@settings(max_examples=300)
@example(1, 40_000, 40.0)
@example(6000, 4000, 40.0)
@given(SIDES, SIDES, st.floats(SEEN / FINEST, 400))
def test_tiles_lie_in_the_picture_and_cost_is_bounded(
    width: int, height: int, smallest: float
) -> None:
    scale, cost = SEEN / smallest, 0
    for tile in pyramid(height, width, smallest=smallest, coarsest=COARSEST):
        left, top, right, bottom = tile.region
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert max(tile.frame.outer) <= TILE_SIDE
        cost += tile.frame.outer[0] * tile.frame.outer[1]
    # Half a smallest face is what a picture must be wide, and is padded to 32 pixels at the most.
    assert cost <= (1.65 if min(width, height) * scale > 640 else 3.6) * scale**2 * width * height


@pytest.mark.parametrize(
    ("width", "height"), [(640, 640), (700, 500), (1, 100_000), (100_000, 19), (640, 3)]
)
def test_small_and_narrow_pictures_have_none(width: int, height: int) -> None:
    assert not list(pyramid(height, width, smallest=40, coarsest=COARSEST))


def test_levels_of_one_large_photograph() -> None:
    tiles = list(pyramid(4000, 6000, smallest=40, coarsest=COARSEST))
    levels = [round(1 / float(tile.frame.scale.max()), 2) for tile in tiles]  # coarser: whole
    assert {level: levels.count(level) for level in levels} == {1.0: 24, 0.33: 4}


def test_a_box_at_the_edge_of_a_tile_counts_only_where_the_picture_ends() -> None:
    tiles = [tile for tile in pyramid(1000, 3000, smallest=40, coarsest=COARSEST)][:3]

    def counts(tile: Tile, box: tuple[float, float, float, float], score: float = 0.7) -> bool:
        return tile.answers_for(box, score, height=1000, width=3000)

    for one, following in pairwise(tiles):
        assert following.x < one.region[2]
        cut = (one.region[2] - 30.0 - BORDER + 1, 100.0, 30.0, 40.0)
        assert not counts(one, cut)
        assert counts(following, cut)
        half = (one.region[2] - 90.0, 300.0, 85.0, 54.0)  # as seen in a tile that cut a face at 0.6
        assert not counts(one, half)
    assert counts(tiles[0], (0.0, 0.0, 40.0, 40.0))
    assert counts(tiles[-1], (2960.0, 960.0, 40.0, 40.0))
    assert not counts(tiles[0], (100.0, 100.0, 129.0, 129.0))
    assert counts(tiles[0], (100.0, 100.0, 129.0, 129.0), 0.95)
    assert not counts(tiles[0], (100.0, 100.0, 257.0, 257.0), 0.95)
