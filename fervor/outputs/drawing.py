"""Draw answers into pictures: boxes, names, bars of shares; and many pictures on one sheet.

Colours are those of Okabe and Ito, "Color Universal Design", 2008, which people with any kind of
colour vision tell apart; no colour stands without its word.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fervor.errors import InputError
from fervor.faces.types import Box, Points
from fervor.inference.prediction import Prediction, cover_note
from fervor.io.sources import ImageLike, frame_of
from fervor.outputs.layout import Rectangle, Room, around


__all__ = [
    "annotated",
    "colour_of",
    "draw",
    "font",
    "ink_on",
    "legend",
    "short",
]

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

LISTED, LEAST_LISTED = 4, 0.005
"""Shares that are listed beside a box, the largest first, and the least of them."""
LISTS = 6
"""Faces beside which shares are listed; of a larger group names and bars say enough."""
LONGEST = 28
"""Signs of a name that a tag shows."""
SMALLEST, LARGEST = 12, 96
"""Height of letters in pixels; a thirtieth of the picture's shorter side between these."""
LEAST, MOST = 360, 8
"""A picture whose shorter side is less is drawn so many whole times larger, this often at most."""
WIDEST = 16_383
"""Pixels of the longer side that nothing is enlarged beyond: WebP holds no more, nor do videos."""


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


@cache
def font(size: int) -> Any:
    """PIL's own font at a size in pixels."""
    return ImageFont.load_default(size)


def draw(
    image: ImageLike, faces: Iterable[Prediction], points: Sequence[Points | None] = ()
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
    probabilities: Sequence[Mapping[str, float]],
    points: Sequence[Points | None] = (),
    *,
    extend: bool = True,
) -> Image.Image:
    """A copy of the picture [h w 3] with each face's box, name, track, shares, and `points`.

    `shares` are those that are drawn, one mapping for each prediction (smoothed ones, in a video).
    Nothing but the thin lines of boxes and the points is drawn over a face: words that find no room
    are shortened, then left out. A small picture is enlarged, so that they have room; a picture
    that one face fills is continued below for them, unless `extend` is false.
    """
    picture = Image.fromarray(image)
    times = min(MOST, -(-LEAST // min(picture.size)), max(1, WIDEST // max(picture.size)))
    if times > 1:
        large = (picture.width * times, picture.height * times)
        picture = picture.resize(large, Image.Resampling.BICUBIC)
    faces = arranged(picture.size, [_larger(one, times) for one in predictions], probabilities)
    if extend and len(faces) == 1 and faces[0].tag is None:
        picture = faces[0].below(picture)
    draw = ImageDraw.Draw(picture)
    for face in faces:
        face.draw_words(draw)
    for face in faces:  # small faces last: where boxes overlap they stay visible
        face.draw_box(draw)
    for places in points:
        _dots(draw, [(times * x, times * y) for x, y in places or ()], LARGEST)
    return picture


def arranged(
    canvas: tuple[int, int],
    predictions: Sequence[Prediction],
    probabilities: Sequence[Mapping[str, float]],
) -> "list[_Face]":
    """What is drawn of each face in a picture of `canvas` (width, height), and where."""
    size = round(min(max(min(canvas) / 30, SMALLEST), LARGEST))
    faces = [
        _Face(prediction, drawn, size)
        for prediction, drawn in zip(predictions, probabilities, strict=True)
        if prediction.box is not None and drawn
    ]
    room = Room(canvas, [face.box for face in faces])
    for face in faces:  # the most important words of all faces first
        face.place_tag(room, canvas)
    for face in faces:
        face.place_bar(room)
    for face in faces if len(faces) <= LISTS else ():
        face.place_list(room)
    return faces


def _larger(prediction: Prediction, times: int) -> Prediction:
    if prediction.box is None:
        return prediction
    x, y, width, height = prediction.box
    return replace(prediction, box=(times * x, times * y, times * width, times * height))


def _dots(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], size: int) -> None:
    """White points with black edges, to be seen on any skin, and small beside the face."""
    if not places:
        return
    across = max(x for x, _ in places) - min(x for x, _ in places)
    radius = min(max(1, size // 10), max(1, round(across / 80)))
    for edge, colour in ((radius + 1, BLACK), (radius, WHITE)):
        for x, y in places:
            draw.ellipse((x - edge, y - edge, x + edge, y + edge), fill=colour)


class _Face:
    """One face's answer: what of it is drawn, where, and the drawing."""

    def __init__(
        self, prediction: Prediction, probabilities: Mapping[str, float], size: int
    ) -> None:
        assert prediction.box is not None, "a face has a box"
        self.probabilities, self.labels = probabilities, tuple(probabilities)
        self.box: Box = prediction.box
        best = max(probabilities, key=lambda label: probabilities[label])
        # Without smoothing the name is the answer's, which may be "uncertain".
        known = prediction.label in probabilities and probabilities != prediction.probabilities
        self.label = best if known else str(prediction.label)
        self.fraction = probabilities[best]
        self.track = prediction.track
        self.note = cover_note(prediction.covered or ())
        width, height = self.box[2:]
        # Words beside a small face are small, so that they are seen to be its own.
        self.size = round(min(size, max(SMALLEST, width / 5)))
        self.line = max(1, min(round(self.size / 7), round(min(width, height) / 30)))
        self.gap = self.line + 1
        self.tag: Rectangle | None = None
        self.text, self.letters = "", self.size
        self.bar: Rectangle | None = None
        self.list: Rectangle | None = None

    @property
    def colour(self) -> Colour:
        return colour_of(self.label, self.labels)

    def _texts(self) -> list[str]:
        """What a tag may say, from all to the least."""
        label = self.label if len(self.label) <= LONGEST else f"{self.label[: LONGEST - 3]}..."
        who = "" if self.track is None else f"#{self.track} "
        answer = f"{who}{label} {self.fraction:.0%}"
        texts = [answer, f"{who}{label}", who.strip() or f"{label[:3]}."]
        return [f"{answer}, {self.note}", f"{answer} ?", *texts] if self.note else texts

    def _tags(self) -> Iterator[tuple[str, int, tuple[float, float]]]:
        """Texts, heights of their letters, and the sizes of their tags, best first."""
        for text in self._texts():
            for size in sorted({self.size, round(0.75 * self.size), SMALLEST}, reverse=True):
                if SMALLEST <= size <= self.size:
                    yield text, size, (font(size).getlength(text) + size // 2, size + size // 3)

    def place_tag(self, room: Room, canvas: tuple[int, int]) -> None:
        for text, size, tag in self._tags():
            self.tag = room.place(around(self.box, tag, canvas, self.gap))
            if self.tag is not None:
                self.text, self.letters = text, size
                return

    def place_bar(self, room: Room) -> None:
        """All shares side by side, as wide as the box, below it or above."""
        x, y, width, height = self.box
        thick = max(3, self.size // 2)
        tops = (y + height + self.gap, y - self.gap - thick)
        self.bar = room.place((x, top, x + width, top + thick) for top in tops)

    def place_list(self, room: Room) -> None:
        """The largest shares with their names, at a side of the box that is as high."""
        size = self._list_size()
        if self.box[3] < size[1]:
            return
        x, y, width, _ = self.box
        lefts = (x + width + self.gap + 1, x - size[0] - self.gap - 1)
        self.list = room.place((left, y, left + size[0], y + size[1]) for left in lefts)

    def below(self, picture: Image.Image) -> Image.Image:
        """The picture on a larger one, with tag and shares below where they are not too wide."""
        wide, tall = self._list_size()
        gap = self.size // 2
        fitting = (tag for tag in self._tags() if tag[2][0] < picture.width - 1)
        if (tag := next(fitting, None)) is None:
            return picture
        top, (width, height) = picture.height + gap, tag[2]
        self.text, self.letters = tag[:2]
        self.tag = (0, top, width, top + height)
        bottom = top + height + gap
        if wide < picture.width:
            self.list = (0, bottom, wide, bottom + tall)
            bottom += tall + gap
        larger = Image.new("RGB", (picture.width, round(bottom) // 2 * 2), DARK)
        larger.paste(picture)
        return larger

    @property
    def _small(self) -> int:
        return max(SMALLEST, round(self.size * 0.85))

    def _listed(self) -> list[str]:
        ranked = sorted(self.labels, key=lambda label: -self.probabilities[label])[:LISTED]
        return [
            ranked[0],
            *(label for label in ranked[1:] if self.probabilities[label] >= LEAST_LISTED),
        ]

    def _list_size(self) -> tuple[float, float]:
        names = max(font(self._small).getlength(label) for label in self._listed())
        row = round(self._small * 1.3)
        return names + 5 * self._small, row * len(self._listed()) + self._small // 2

    def draw_box(self, draw: ImageDraw.ImageDraw) -> None:
        x, y, width, height = self.box
        left, top = round(x), round(y)
        right, bottom = max(round(x + width), left + 2), max(round(y + height), top + 2)
        draw.rectangle((left, top, right, bottom), outline=BLACK, width=self.line + 2)
        inner = (left + 1, top + 1, right - 1, bottom - 1)
        draw.rectangle(inner, outline=self.colour, width=self.line)

    def draw_words(self, draw: ImageDraw.ImageDraw) -> None:
        if self.tag is not None:
            left, top, _, bottom = self.tag
            draw.rectangle(self.tag, fill=self.colour, outline=BLACK)
            place, letters = (left + self.letters // 4, (top + bottom) / 2), font(self.letters)
            draw.text(place, self.text, fill=ink_on(self.colour), font=letters, anchor="lm")
        if self.bar is not None:
            self._draw_bar(draw, self.bar)
        if self.list is not None:
            self._draw_list(draw, self.list)

    def _draw_bar(self, draw: ImageDraw.ImageDraw, bar: Rectangle) -> None:
        left, top, end, bottom = bar
        width = end - left
        for label in self.labels:
            right = left + self.probabilities[label] * width
            if right - left >= 0.5:
                colour = colour_of(label, self.labels)
                draw.rectangle((left, top, right, bottom), fill=colour)
            left = right
        draw.rectangle(bar, outline=BLACK)

    def _draw_list(self, draw: ImageDraw.ImageDraw, panel: Rectangle) -> None:
        left, top, right, _ = panel
        small, letters = self._small, font(self._small)
        row, listed = round(small * 1.3), self._listed()
        names = max(letters.getlength(label) for label in listed)
        draw.rectangle(panel, fill=DARK)
        for number, label in enumerate(listed):
            middle = top + small // 4 + row * (number + 0.5)
            place = (left + small // 3, middle)
            draw.text(place, label, fill=WHITE, font=letters, anchor="lm")
            start = left + names + small * 2 // 3
            end = start + self.probabilities[label] * (right - start - small // 3)
            edges = (start, middle - small * 0.35, max(end, start + 1), middle + small * 0.35)
            draw.rectangle(edges, fill=colour_of(label, self.labels))


def short(text: str, size: int, width: int) -> str:
    """A text as it fits into `width`, its middle left out; what no font shows as a mark."""
    text = "".join(sign if sign.isprintable() and ord(sign) < 0xD800 else "?" for sign in text)
    letters, kept = font(size), len(text)
    shown = text
    while letters.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def legend(labels: Sequence[str], size: int, width: int) -> Image.Image:
    """Each class's colour and name, in as many lines as `width` asks for."""
    letters, place, line = font(size), 0.0, 0
    entries = []
    shown = {label: short(label, size, round(width - 2.5 * size)) for label in labels}
    for label in labels:
        long = letters.getlength(shown[label]) + 2.5 * size
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
        draw.text((x + 1.4 * size, middle), shown[label], fill=BLACK, font=letters, anchor="lm")
    return picture
