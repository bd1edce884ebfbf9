"""Draw explanations: the picture, heat maps over the face, and the cues in words.

Orange speaks for a class and blue against it: colours that people with any kind of colour vision
tell apart (Okabe and Ito, 2008), over a grey face so that no colour of the picture takes part.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from fervor.faces.alignment import warp
from fervor.inference.attribution import Cue, Explanation
from fervor.inference.prediction import Prediction
from fervor.outputs.drawing import BLACK, COLOURS, DARK, WHITE, annotated, font, short


__all__ = ["drawn", "grey_face", "overlaid"]

FOR, AGAINST = COLOURS["happiness"], COLOURS["sadness"]
STRONGEST = 0.75
"""Share of the colour where a map is strongest."""

LEAST = 0.005
"""Probability below which a class is not drawn."""
UNITS = {"occlusion": "fall of log odds", "similarity": "difference of cosines"}
"""Of heat, by how it was made."""
COLUMNS = 3
"""Pictures for which a figure has room at least: words are below them."""

PANEL, GAP, LINE, LETTERS = 240, 12, 20, 14
"""Pixels: side of a picture, space between them, a line of text, its letters."""


def drawn(image: NDArray[np.uint8], explanation: Explanation, *, top: int = 3) -> Image.Image:
    """One face's explanation; `image` is the picture [h w 3] it was found in.

    The picture with the face's box, a heat map for each of the `top` most probable classes, and the
    cues for and against the answer. Maps have one scale, that of all classes whose probability is
    not nothing; the others have no map. The page draws the same (server/static/heat.js).
    """
    probabilities = explanation.prediction.probabilities
    ranked = sorted(probabilities, key=lambda label: -probabilities[label])
    likely = [label for label in ranked if probabilities[label] >= LEAST] or ranked[:1]
    scale = max(float(np.abs(explanation.heat[label]).max()) for label in likely)
    shown = likely[:top]
    face = grey_face(image, explanation.square)
    panels = [_whole(image, explanation.prediction)]
    panels += [overlaid(face, explanation.heat[label], scale) for label in shown]
    titles = ["the face", *(f"{label} {probabilities[label]:.1%}" for label in shown)]
    texts = _texts(explanation)
    most = max(len(lines) for _, lines in texts)
    width = max(len(panels), COLUMNS) * (PANEL + GAP) + GAP
    doubt = doubtful(explanation.covered)
    height = 2 * GAP + LINE + PANEL + (2 + bool(doubt)) * LINE + (most + 1) * LINE + GAP
    sheet = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(zip(titles, panels, strict=True)):
        left = GAP + number * (PANEL + GAP)
        draw.text((left, GAP), short(title, LETTERS, PANEL), fill=BLACK, font=font(LETTERS))
        sheet.paste(panel, (left, GAP + LINE))
    below = GAP + LINE + PANEL + LINE // 2
    _legend(draw, below, f"{scale:.2g} ({UNITS[explanation.heat_by]})")
    if doubt:
        below += LINE
        draw.text((GAP, below), doubt, fill=BLACK, font=font(LETTERS))
    for number, (title, lines) in enumerate(texts):
        left = GAP + number * (width // 2)
        room = width // 2 - 2 * GAP
        draw.text((left, below + LINE), short(title, LETTERS, room), fill=BLACK, font=font(LETTERS))
        for row, line in enumerate(lines, start=2):
            line = short(line, LETTERS, room)
            draw.text((left, below + row * LINE), line, fill=DARK, font=font(LETTERS))
    return sheet


def doubtful(covered: Sequence[str]) -> str:
    """A line on parts of a face that seem covered; empty where none does."""
    if not covered:
        return ""
    seems = "seems" if tuple(covered) == ("mouth",) else "seem"
    return f"the {' and the '.join(covered)} {seems} covered: the answer is in doubt"


def grey_face(image: NDArray[np.uint8], square: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The model's view of a face as the picture has it: grey, [PANEL PANEL 3]."""
    pixels = warp(image, square / [PANEL, PANEL, 1], PANEL)
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def overlaid(face: NDArray[np.uint8], heat: NDArray[np.float32], scale: float) -> Image.Image:
    """A face [s s 3] under a heat map [rows columns]; values of +-`scale` are the strongest."""
    side = face.shape[0]
    values = np.clip(heat / max(scale, 1e-12), -1, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR))
    colour = np.where(smooth[..., None] > 0, FOR, AGAINST)
    fraction = STRONGEST * np.abs(smooth)[..., None]
    return Image.fromarray(np.rint(face * (1 - fraction) + colour * fraction).astype(np.uint8))


def _whole(image: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    picture = annotated(image, [prediction], [prediction.probabilities])
    panel = Image.new("RGB", (PANEL, PANEL), WHITE)
    picture = ImageOps.contain(picture, (PANEL, PANEL))
    panel.paste(picture, ((PANEL - picture.width) // 2, (PANEL - picture.height) // 2))
    return panel


def _legend(draw: ImageDraw.ImageDraw, top: int, strongest: str) -> None:
    """The two colours with what they mean."""
    left = GAP
    for colour, text in ((FOR, "speaks for the class"), (AGAINST, "speaks against it")):
        draw.rectangle((left, top, left + LETTERS, top + LETTERS), fill=colour, outline=DARK)
        draw.text((left + LINE, top - 1), text, fill=DARK, font=font(LETTERS))
        left += LINE + font(LETTERS).getlength(text) + 2 * GAP
    draw.text((left, top - 1), f"strongest: {strongest}", fill=DARK, font=font(LETTERS))


def _texts(explanation: Explanation) -> list[tuple[str, list[str]]]:
    """Two columns: title and lines."""

    def line(cue: Cue, *, named: bool) -> str:
        owner = f" ({cue.label})" if named else ""
        return f"{cue.score:+.2f}  {cue.dimension}: {cue.text}{owner}"

    matching = [line(cue, named=False) for cue in explanation.cues_for]
    against = [line(cue, named=True) for cue in explanation.cues_against]
    return [
        (f"described cues for {explanation.answer}", matching or ["none matches"]),
        ("against it: cues of others that match better", against or ["none"]),
    ]
