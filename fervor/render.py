"""Draw answers into pictures: boxes, names, bars of shares; and many pictures on one sheet.

Colours are those of Okabe and Ito, "Color Universal Design", 2008, which people with any kind of
colour vision tell apart; no colour stands without its word.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fervor.errors import InputError
from fervor.media import Picture, frame_of
from fervor.prediction import Box, Points, Prediction


__all__ = ["annotated", "colour_of", "contact_sheet", "draw", "font", "ink_on", "legend", "tile"]

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "neutral": (170, 170, 170),
    "happiness": (230, 159, 0),
    "surprise": (240, 228, 66),
    "sadness": (0, 114, 178),
    "anger": (213, 94, 0),
    "disgust": (0, 158, 115),
    "fear": (204, 121, 167),
    "contempt": (86, 180, 233),
}
OTHERS = tuple(COLOURS.values())[1:]
BLACK, WHITE, DARK = (0, 0, 0), (255, 255, 255), (30, 30, 30)

LISTED = 4
"""Shares that are listed beside a box, the largest first."""
SMALLEST, LARGEST = 12, 96
"""Height of letters in pixels; a thirtieth of the picture's shorter side between these."""
LEAST, MOST = 360, 8
"""A picture whose shorter side is less is drawn so many whole times larger, this often at most."""


def colour_of(label: str, labels: Sequence[str]) -> Colour:
    """A class's colour; names besides the eight expressions take theirs from their place."""
    if label in COLOURS:
        return COLOURS[label]
    return OTHERS[list(labels).index(label) % len(OTHERS)] if label in labels else DARK


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour (relative luminance of WCAG 2)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if luminance > 0.179 else WHITE


def font(size: int) -> Any:
    """PIL's own font at a size in pixels."""
    return ImageFont.load_default(size)


def draw(
    image: Picture, faces: Iterable[Prediction], points: Sequence[Points | None] = ()
) -> Image.Image:
    """A copy of the picture with each face's box, expression and probabilities.

    `image` is whatever a Predictor takes; `faces` is what it gave; a small picture is enlarged, so
    that words have room.

    Raises:
        InputError: the picture does not exist or cannot be read.
    """
    frame = frame_of(image)
    if frame.image is None:
        raise InputError(f"{frame.source or 'picture'} cannot be read: {frame.error}")
    shown = [face for face in faces if face.box is not None]
    return annotated(frame.image, shown, [face.probabilities for face in shown], points)


def annotated(
    image: NDArray[np.uint8],
    predictions: Sequence[Prediction],
    shares: Sequence[Mapping[str, float]],
    points: Sequence[Points | None] = (),
) -> Image.Image:
    """A copy of the picture [h w 3] with each face's box, name, track, shares, and `points`.

    `shares` are those that are drawn, one mapping for each prediction (smoothed ones, in a video).
    A small picture is enlarged, so that words have room beside its faces.
    """
    picture = Image.fromarray(image)
    times = min(MOST, -(-LEAST // min(picture.size)))
    if times > 1:
        large = (picture.width * times, picture.height * times)
        picture = picture.resize(large, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    size = round(min(max(min(picture.size) / 30, SMALLEST), LARGEST))
    # Small faces last: where boxes overlap they stay visible.
    for prediction, drawn in zip(predictions, shares, strict=True):
        if prediction.box is not None and drawn:
            x, y, width, height = prediction.box
            box = (times * x, times * y, times * width, times * height)
            _Face(draw, picture.size, replace(prediction, box=box), drawn, size).all()
    for places in points:
        _dots(draw, [(times * x, times * y) for x, y in places or ()], max(1, size // 10))
    return picture


def _dots(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], radius: int) -> None:
    """White points with black edges, to be seen on any skin."""
    for edge, colour in ((radius + 1, BLACK), (radius, WHITE)):
        for x, y in places:
            draw.ellipse((x - edge, y - edge, x + edge, y + edge), fill=colour)


class _Face:
    """Draws one face's answer, inside the picture."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        canvas: tuple[int, int],
        prediction: Prediction,
        shares: Mapping[str, float],
        size: int,
    ) -> None:
        assert prediction.box is not None, "a face has a box"
        self.draw, self.canvas, self.size = draw, canvas, size
        self.shares, self.labels = shares, tuple(shares)
        self.box: Box = prediction.box
        best = max(shares, key=lambda label: shares[label])
        # Without smoothing the name is the answer's, which may be "uncertain".
        known = prediction.label in shares and shares != prediction.probabilities
        self.label = best if known else str(prediction.label)
        self.share = shares[best]
        self.track = prediction.track
        self.line = max(2, size // 7)

    def all(self) -> None:
        self._box()
        self._tag()
        self._bar()
        self._list()

    def _box(self) -> None:
        x, y, width, height = self.box
        left, top = round(x), round(y)
        right, bottom = max(round(x + width), left + 2), max(round(y + height), top + 2)
        colour = colour_of(self.label, self.labels)
        self.draw.rectangle((left, top, right, bottom), outline=BLACK, width=self.line + 2)
        inner = (left + 1, top + 1, right - 1, bottom - 1)
        self.draw.rectangle(inner, outline=colour, width=self.line)

    def _tag(self) -> None:
        track = "" if self.track is None else f"#{self.track} "
        text, letters = f"{track}{self.label} {self.share:.0%}", font(self.size)
        colour = colour_of(self.label, self.labels)
        width, height = letters.getlength(text) + self.size // 2, self.size + self.size // 3
        left = min(max(0.0, self.box[0]), max(0.0, self.canvas[0] - width))
        top = self.box[1] - height if self.box[1] >= height else self.box[1]
        self.draw.rectangle((left, top, left + width, top + height), fill=colour, outline=BLACK)
        place = (left + self.size // 4, top + height / 2)
        self.draw.text(place, text, fill=ink_on(colour), font=letters, anchor="lm")

    def _bar(self) -> None:
        """All shares side by side, as wide as the box, below it."""
        x, y, width, height = self.box
        thick = max(4, self.size // 2)
        top = min(y + height, self.canvas[1] - thick - 1)
        left = x
        for label in self.labels:
            right = left + self.shares[label] * width
            if right - left >= 0.5:
                colour = colour_of(label, self.labels)
                self.draw.rectangle((left, top, right, top + thick), fill=colour)
            left = right
        self.draw.rectangle((x, top, x + width, top + thick), outline=BLACK)

    def _list(self) -> None:
        """The largest shares with their names, beside the box; left out where it has no room."""
        x, y, width, height = self.box
        small = max(SMALLEST, round(self.size * 0.85))
        letters, row = font(small), round(small * 1.3)
        listed = sorted(self.labels, key=lambda label: -self.shares[label])[:LISTED]
        names = max(letters.getlength(label) for label in listed)
        wide, tall = names + 5 * small, row * len(listed) + small // 2
        left = x + width + self.line + 2
        if left + wide > self.canvas[0]:
            left = x - wide - self.line - 2
        if left < 0 or height < tall:
            return
        self.draw.rectangle((left, y, left + wide, y + tall), fill=DARK)
        for number, label in enumerate(listed):
            middle = y + small // 4 + row * (number + 0.5)
            place = (left + small // 3, middle)
            self.draw.text(place, label, fill=WHITE, font=letters, anchor="lm")
            start = left + names + small * 2 // 3
            end = start + self.shares[label] * (left + wide - start - small // 3)
            edges = (start, middle - small * 0.35, max(end, start + 1), middle + small * 0.35)
            self.draw.rectangle(edges, fill=colour_of(label, self.labels))


TILE, CAPTION, GAP = 192, 40, 8
"""Pixels: side of a picture on the sheet, height of the words below it, space around it."""


def tile(image: NDArray[np.uint8] | None, predictions: Sequence[Prediction]) -> Image.Image:
    """One picture of a contact sheet: its largest face, in its surroundings, with the answer."""
    result = Image.new("RGB", (TILE, TILE + CAPTION), WHITE)
    draw = ImageDraw.Draw(result)
    first = predictions[0]
    if image is None:
        draw.rectangle((0, 0, TILE - 1, TILE - 1), outline=DARK)
        draw.line((0, 0, TILE, TILE), fill=DARK)
    else:
        picture = Image.fromarray(image)
        if first.box is not None:
            picture = picture.crop(_surroundings(first.box, picture.size))
        picture = ImageOps.contain(picture, (TILE, TILE), Image.Resampling.BICUBIC)
        result.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    answer = first.status.replace("_", " ")
    if first.prob is not None and first.label is not None:
        answer = f"{first.label} {first.prob:.0%}"
        if len(predictions) > 1:
            answer += f" (+{len(predictions) - 1})"
        colour = colour_of(first.label, tuple(first.probabilities))
        draw.rectangle((0, TILE, TILE, TILE + CAPTION // 2), fill=colour)
        draw.text((4, TILE + 2), answer, fill=ink_on(colour), font=font(14))
    else:
        draw.text((4, TILE + 2), answer, fill=BLACK, font=font(14))
    name = _short(first.source.replace("\\", "/").rsplit("/", 1)[-1], 12)
    draw.text((4, TILE + CAPTION // 2 + 2), name, fill=BLACK, font=font(12))
    return result


def _surroundings(box: Box, canvas: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = box
    half = max(width, height)
    low = (max(0, x + width / 2 - half), max(0, y + height / 2 - half))
    high = (min(canvas[0], x + width / 2 + half), min(canvas[1], y + height / 2 + half))
    left, top, right, bottom = (round(value) for value in (*low, *high))
    return (left, top, max(right, left + 1), max(bottom, top + 1))


def _short(text: str, size: int) -> str:
    """The name as it fits below a tile, its middle left out; what no font shows as a mark."""
    text = "".join(sign if sign.isprintable() and ord(sign) < 0xD800 else "?" for sign in text)
    letters, kept = font(size), len(text)
    shown = text
    while letters.getlength(shown) > TILE - 8 and kept > 2:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def contact_sheet(tiles: Sequence[Image.Image], *, columns: int = 6) -> Image.Image:
    """Tiles in rows, in their order, on white."""
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    wide, tall = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * wide + GAP, rows * tall + GAP), WHITE)
    for number, one in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(one, (GAP + column * wide, GAP + row * tall))
    return sheet


def legend(labels: Sequence[str], size: int, width: int) -> Image.Image:
    """Each class's colour and name, in as many lines as `width` asks for."""
    letters, place, line = font(size), 0.0, 0
    entries = []
    for label in labels:
        long = letters.getlength(label) + 2.5 * size
        if place and place + long > width:
            place, line = 0.0, line + 1
        entries.append((place, line, label))
        place += long
    height = round((line + 1) * size * 1.6)
    picture = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(picture)
    for x, row, label in entries:
        middle = (row + 0.5) * size * 1.6
        edges = (x, middle - size / 2, x + size, middle + size / 2)
        draw.rectangle(edges, fill=colour_of(label, labels), outline=DARK)
        draw.text((x + 1.4 * size, middle), label, fill=BLACK, font=letters, anchor="lm")
    return picture
