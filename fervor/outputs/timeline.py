"""The expressions that each face of a video shows over time: gathered, drawn as PNG or HTML."""

import io
import json
from array import array
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fervor.errors import counted
from fervor.faces.types import Box
from fervor.inference.prediction import Prediction
from fervor.io.atomic import write_bytes, write_image
from fervor.outputs.drawing import BLACK, WHITE, colour_of, font, legend, short


__all__ = ["Timeline", "page", "picture", "write"]

POINTS = 800
"""Steps of time that are drawn; a longer video shows their means."""
LANES = 24
"""Tracks that are drawn: the longest ones."""
FACE, GROWN = 56, 1.3
"""Pixels of the longer side of a track's face; how much larger one that replaces it is."""
BREAK = 1.0
"""Seconds without a track after which its band is interrupted."""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One track: times [n] in seconds, and shares [n c]; a step of NaN interrupts it."""

    track: int
    times: NDArray[np.float64]
    probabilities: NDArray[np.float64]


class Timeline:
    """Gathers one video's answers: about forty bytes for each face of each frame."""

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)
        self.duration = 0.0
        self._times: dict[int, array[float]] = {}
        self._probabilities: dict[int, array[float]] = {}
        self.faces: dict[int, Image.Image] = {}
        self._areas: dict[int, float] = {}

    def add(
        self,
        predictions: Sequence[Prediction],
        probabilities: Sequence[Mapping[str, float]],
        image: NDArray[np.uint8] | None = None,
    ) -> None:
        """Take in one frame's faces with the shares that are drawn.

        Of the frame's `image` [h w 3] each track keeps its face, where it is the largest so far.
        """
        for prediction, drawn in zip(predictions, probabilities, strict=True):
            if prediction.time_s is not None:
                self.duration = max(self.duration, prediction.time_s)
            if prediction.track is None or prediction.time_s is None or not drawn:
                continue
            self.labels = self.labels or tuple(drawn)
            if image is not None and prediction.box is not None:
                self._keep_face(prediction.track, prediction.box, image)
            self._times.setdefault(prediction.track, array("d")).append(prediction.time_s)
            row = self._probabilities.setdefault(prediction.track, array("f"))
            row.extend(drawn[label] for label in self.labels)

    def _keep_face(self, track: int, box: Box, image: NDArray[np.uint8]) -> None:
        area = box[2] * box[3]
        if area <= GROWN * self._areas.get(track, 0.0):
            return
        x, y, width, height = box
        left, top = max(0, round(x)), max(0, round(y))
        piece = image[top : max(round(y + height), top + 1), left : max(round(x + width), left + 1)]
        if piece.size:
            self._areas[track] = area
            face = Image.fromarray(piece)
            face.thumbnail((FACE, FACE))
            self.faces[track] = face

    @property
    def tracks(self) -> int:
        """How many there are."""
        return len(self._times)

    def lanes(self) -> list[Lane]:
        """The longest tracks in their order, each thinned out to POINTS steps of the video."""
        longest = sorted(self._times, key=lambda track: (-len(self._times[track]), track))[:LANES]
        return [self._lane(track) for track in sorted(longest)]

    def _lane(self, track: int) -> Lane:
        times = np.array(self._times[track])
        probabilities = np.array(self._probabilities[track], np.float64).reshape(len(times), -1)
        step = max(self.duration, 1e-9) / POINTS
        cells, starts = np.unique(np.minimum(times / step, POINTS - 1) // 1, return_index=True)
        sizes = np.diff(np.append(starts, len(times)))
        times = np.add.reduceat(times, starts) / sizes
        probabilities = np.add.reduceat(probabilities, starts, axis=0) / sizes[:, None]
        gaps = np.flatnonzero(np.diff(times) > max(BREAK, 2 * step)) + 1
        assert len(cells) == len(times)
        return Lane(
            track,
            np.insert(times, gaps, times[gaps - 1] if gaps.size else []),
            np.insert(probabilities, gaps, np.nan, axis=0),
        )


def _runs(lane: Lane) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """A lane's parts without interruption: times [n] and edges of the stacked bands [n c + 1]."""
    broken = np.flatnonzero(np.isnan(lane.probabilities[:, 0]))
    parts = []
    for part in np.split(np.arange(len(lane.times)), broken):
        part = part[~np.isnan(lane.probabilities[part, 0])]
        if part.size:
            edges = np.cumsum(lane.probabilities[part], axis=1)
            parts.append((lane.times[part], np.hstack([np.zeros((part.size, 1)), edges])))
    return parts


def _ticks(duration: float) -> list[float]:
    """Round times from 0 on, at most a dozen of them."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
    step = next((step for step in steps if duration / step <= 12), duration / 12)
    return [step * number for number in range(int(duration / step + 1e-9) + 1)]


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


WIDTH, MARGIN, LEFT, LANE, SPACE, SIZE = 1400, 24, 96, 90, 18, 18


def picture(timeline: Timeline, title: str) -> Image.Image:
    """A lane for each track, with the shares of its expressions stacked over time."""
    lanes = timeline.lanes()
    names = legend(timeline.labels, SIZE, WIDTH - LEFT - MARGIN)
    top = MARGIN + 2 * SIZE + names.height + SPACE
    height = top + max(1, len(lanes)) * (LANE + SPACE) + 2 * SIZE + MARGIN
    image = Image.new("RGB", (WIDTH, height), WHITE)
    draw = ImageDraw.Draw(image)
    letters = font(SIZE + 4)
    free = WIDTH - LEFT - MARGIN - letters.getlength(_heading(timeline, ""))
    heading = _heading(timeline, short(title, SIZE + 4, int(free)))
    draw.text((LEFT, MARGIN), heading, fill=BLACK, font=letters)
    image.paste(names, (LEFT, MARGIN + 2 * SIZE))
    scale = (WIDTH - LEFT - MARGIN) / max(timeline.duration, 1e-9)
    for number, lane in enumerate(lanes):
        base = top + number * (LANE + SPACE) + LANE
        draw.rectangle((LEFT, base - LANE, WIDTH - MARGIN, base), outline=(200, 200, 200))
        for times, edges in _runs(lane):
            _bands(draw, LEFT + times * scale, base - LANE * edges, timeline.labels)
        place = (LEFT - 10, base - LANE / 2)
        if (face := timeline.faces.get(lane.track)) is not None:  # above its name
            image.paste(face, (LEFT - 10 - face.width, base - LANE))
            place = (LEFT - 10, base - (LANE - FACE) // 2)
        draw.text(place, f"track {lane.track}", fill=BLACK, font=font(SIZE - 2), anchor="rm")
    base = top + max(1, len(lanes)) * (LANE + SPACE)
    for time in _ticks(timeline.duration):
        x = LEFT + time * scale
        draw.line((x, base - SPACE, x, base - SPACE + 6), fill=BLACK)
        draw.text((x, base), _clock(time), fill=BLACK, font=font(SIZE - 4), anchor="mt")
    return image


def _bands(
    draw: ImageDraw.ImageDraw, x: NDArray[np.float64], y: NDArray[np.float64], labels: Sequence[str]
) -> None:
    if len(x) == 1:  # a single frame is one pixel wide
        x, y = np.array([x[0], x[0] + 1]), np.repeat(y, 2, axis=0)
    # Each from the bottom up and the last first: what is too thin for a pixel is covered.
    for number, label in reversed(list(enumerate(labels))):
        upper = y[:, number + 1]
        outline = [(x[0], y[0, 0]), *zip(x, upper, strict=True), (x[-1], y[-1, 0])]
        draw.polygon([(float(a), float(b)) for a, b in outline], fill=colour_of(label, labels))


def _heading(timeline: Timeline, title: str) -> str:
    shown = min(timeline.tracks, LANES)
    tracks = counted(timeline.tracks, "track")
    if shown < timeline.tracks:
        tracks = f"{shown} of {tracks}"
    return f"Expressions shown in {title} ({_clock(round(timeline.duration, 1))}, {tracks})"


def page(timeline: Timeline, title: str) -> str:
    """One HTML page that needs nothing else: the same lanes as SVG, shares under the pointer."""
    lanes = timeline.lanes()
    colours = {
        label: f"#{bytes(colour_of(label, timeline.labels)).hex()}" for label in timeline.labels
    }
    parts = [_svg_lane(lane, timeline, colours) for lane in lanes]
    ticks = "".join(
        f'<span style="left:{100 * time / max(timeline.duration, 1e-9):.3f}%">{_clock(time)}</span>'
        for time in _ticks(timeline.duration)
    )
    keys = "".join(
        f'<li><i style="background:{colours[label]}"></i>{escape(label)}</li>'
        for label in timeline.labels
    )
    data = {
        "labels": timeline.labels,
        "duration": timeline.duration,
        "lanes": [_data(lane) for lane in lanes],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return TEMPLATE.format(
        title=escape(_heading(timeline, title)),
        keys=keys,
        lanes="".join(parts) or "<p>No face was found.</p>",
        ticks=ticks,
        data=text,
    )


def _data(lane: Lane) -> dict[str, object]:
    kept = ~np.isnan(lane.probabilities[:, 0])
    return {
        "times": np.round(lane.times[kept], 3).tolist(),
        "shares": np.round(lane.probabilities[kept], 3).tolist(),
    }


def _svg_lane(lane: Lane, timeline: Timeline, colours: Mapping[str, str]) -> str:
    scale = 1000 / max(timeline.duration, 1e-9)
    paths = []
    for times, edges in _runs(lane):
        x, y = times * scale, 100 * (1 - edges)
        if len(x) == 1:
            x, y = np.array([x[0], x[0] + 1]), np.repeat(y, 2, axis=0)
        for number, label in enumerate(timeline.labels):
            points = [*zip(x, y[:, number], strict=True)]
            points += zip(x[::-1], y[::-1, number + 1], strict=True)
            outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            paths.append(f'<polygon fill="{colours[label]}" points="{outline}"/>')
    name = f"track {lane.track}"
    face = ""
    if (picture := timeline.faces.get(lane.track)) is not None:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        data = b64encode(file.getvalue()).decode("ascii")
        face = f'<img alt="the face of {name}" src="data:image/jpeg;base64,{data}"> '
    return (
        f'<figure><figcaption>{face}{name}</figcaption><svg viewBox="0 0 1000 100" role="img" '
        f'preserveAspectRatio="none" aria-label="{name}: {escape(_spoken(lane, timeline.labels))}">'
        f"{''.join(paths)}</svg></figure>"
    )


def _spoken(lane: Lane, labels: Sequence[str]) -> str:
    """A lane in words: when it is there, and its mean shares."""
    mean = np.nanmean(lane.probabilities, axis=0)
    named = [f"{labels[k]} {mean[k]:.0%}" for k in np.argsort(-mean)[:3]]
    return f"{_clock(float(lane.times[0]))} to {_clock(float(lane.times[-1]))}, {', '.join(named)}"


TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
h1 {{ font-size: 1.2rem; }}
ul {{ list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }}
i {{ display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.1em; }}
figure {{ margin: 0 0 1rem; }} figcaption {{ font-size: .9rem; }}
figcaption img {{ height: 56px; border-radius: 6px; vertical-align: middle; }}
svg {{ width: 100%; height: 90px; background: #8882; display: block; }}
#ticks {{ position: relative; height: 1.5em; font-size: .85rem; margin-right: 2em; }}
#ticks span {{ position: absolute; }}
output {{ position: sticky; bottom: 0; display: block; min-height: 1.5em; background: Canvas; }}
</style></head><body>
<h1>{title}</h1><ul>{keys}</ul><main>{lanes}</main><div id="ticks" aria-hidden="true">{ticks}</div>
<output aria-live="off">Move over a lane to read its shares.</output>
<p>The expression shown, as people would name it; not what a person feels.</p>
<script>
const data = {data};
document.querySelectorAll("svg").forEach((svg, number) => {{
  svg.addEventListener("pointermove", event => {{
    const box = svg.getBoundingClientRect(), lane = data.lanes[number];
    const time = (event.clientX - box.left) / box.width * data.duration;
    let best = 0;
    lane.times.forEach((other, index) => {{
      if (Math.abs(other - time) < Math.abs(lane.times[best] - time)) best = index;
    }});
    const shares = data.labels.map((label, index) => [label, lane.shares[best][index]]);
    shares.sort((a, b) => b[1] - a[1]);
    const words = shares.slice(0, 4).map(
      ([label, share]) => label + " " + Math.round(share * 100) + " %");
    const output = document.querySelector("output");
    output.textContent = lane.times[best].toFixed(2) + " s: " + words.join(", ");
  }});
}});
</script></body></html>
"""


def write(timeline: Timeline, title: str, stem: Path) -> None:
    """Write the timeline as `stem`.png and `stem`.html."""
    write_image(stem.with_name(f"{stem.name}.png"), picture(timeline, title), "PNG")
    text = page(timeline, title).encode("utf-8", "backslashreplace")
    write_bytes(stem.with_name(f"{stem.name}.html"), text)
