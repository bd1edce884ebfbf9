"""Measure which faces are found, by their size and the picture's, and what is found without any.

    python benchmarks/detection.py --photos FOLDER --without FOLDER --output REPORT.json [--int8]
    python benchmarks/detection.py --table REPORT.json [REPORT.json ...]

PHOTOS holds photographs of groups: the faces that a look at 1280 pixels shows are cut out with
their surroundings, brought to each size and put into pictures of each size. WITHOUT holds pictures
without a face: the faces are put into them, and what is found in them as they are is false. Time is
the processor's, of one thread. --table prints the tables of benchmarks/REPORT.md.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image

from fervor.faces.detector import INT8_WEIGHTS, WEIGHTS, FaceDetector
from fervor.faces.types import Box, Face, iou
from fervor.io.provenance import commit, versions


SIZES = (16, 24, 32, 40, 48, 64, 96, 160, 320)
PICTURES = ((640, 480), (1920, 1080), (4000, 3000), (6000, 4000), (20_000, 1500))
AROUND = 3
"""Side of the piece that is cut out around a face, in faces."""
SAME = 0.4
"""Intersection over union from which on a found face is the one that was put there."""
REFERENCE = 1280
SEED = 0


@dataclass(frozen=True)
class Piece:
    """A face with its surroundings; `box` is the face's in it."""

    image: Image.Image
    box: Box

    def of_size(self, side: int) -> "Piece":
        """The same with a face whose longer side has `side` pixels."""
        scale = side / max(self.box[2:])
        width, height = (max(1, round(scale * length)) for length in self.image.size)
        image = self.image.resize((width, height), Image.Resampling.LANCZOS)
        x, y, w, h = (scale * value for value in self.box)
        return Piece(image, (x, y, w, h))


def opened(folder: Path) -> list[Path]:
    """The pictures of a folder, by name; links to others of them left out."""
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in kinds)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def read(path: Path) -> Image.Image:
    """A picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def pieces(paths: Sequence[Path]) -> list[Piece]:
    """Every face of the photographs, with its surroundings."""
    detector, found = FaceDetector(1, high=REFERENCE), []
    for path in paths:
        photo = read(path)
        for face in detector.detect([photo], passes=1)[0]:
            x, y, w, h = face.box
            half = AROUND * max(w, h) / 2
            left, top = max(0, int(x + w / 2 - half)), max(0, int(y + h / 2 - half))
            right, bottom = int(x + w / 2 + half), int(y + h / 2 + half)
            image = photo.crop((left, top, min(right, photo.width), min(bottom, photo.height)))
            found.append(Piece(image, (x - left, y - top, w, h)))
    return found


def pictures(
    parts: Sequence[Piece], grounds: Sequence[Path], size: tuple[int, int], chance: random.Random
) -> Iterator[tuple[Image.Image, list[Box]]]:
    """Pictures of one size with as many pieces as have room in a grid, and their faces' boxes."""
    cell = max(max(part.image.size) for part in parts) + 8
    columns, rows = size[0] // cell, size[1] // cell
    for start in range(0, len(parts), max(1, columns * rows)):
        picture, boxes = read(chance.choice(grounds)).resize(size), []
        places = chance.sample(range(columns * rows), min(columns * rows, len(parts) - start))
        for part, place in zip(parts[start:], places, strict=False):
            x = place % columns * (size[0] // columns)
            y = place // columns * (size[1] // rows)
            x += chance.randint(0, size[0] // columns - part.image.width)
            y += chance.randint(0, size[1] // rows - part.image.height)
            picture.paste(part.image, (x, y))
            left, top, width, height = part.box
            boxes.append((left + x, top + y, width, height))
        yield picture, boxes


def hits(faces: Sequence[Face], boxes: Sequence[Box]) -> int:
    """How many of the boxes are found."""
    return sum(any(iou(face.box, box) > SAME for face in faces) for box in boxes)


def recall(
    parts: Sequence[Piece],
    grounds: Sequence[Path],
    detector: FaceDetector,
    sizes: Sequence[tuple[int, int]],
) -> dict[str, dict[str, list[int]]]:
    """By picture and face size: faces found and faces there."""
    chance = random.Random(SEED)
    result: dict[str, dict[str, list[int]]] = {}
    for size in sizes:
        row = result.setdefault(f"{size[0]} x {size[1]}", {})
        for side in SIZES:
            scaled = [part.of_size(side) for part in parts]
            if (AROUND * side + 8) * 1.1 > min(size):
                continue
            found = there = 0
            for picture, boxes in pictures(scaled, grounds, size, chance):
                found += hits(detector.detect([picture])[0], boxes)
                there += len(boxes)
            row[str(side)] = [found, there]
    return result


def false_faces(paths: Sequence[Path], detector: FaceDetector) -> dict[str, Any]:
    """What is found where nothing is, and the time that it takes."""
    found, pixels, seconds = [], 0, 0.0
    for path in paths:
        picture = read(path)
        start = time.process_time()
        (faces,) = detector.detect([picture])
        seconds += time.process_time() - start
        pixels += picture.width * picture.height
        if faces:
            sides = [round(max(face.box[2:])) for face in faces]
            found.append({"picture": path.name, "sides": sides})
    return {
        "pictures": len(paths),
        "megapixels": round(pixels / 1e6),
        "with a false face": found,
        "milliseconds a megapixel": round(1e9 * seconds / pixels, 1),
    }


def tables(reports: Sequence[dict[str, Any]]) -> str:
    """The tables of benchmarks/REPORT.md."""
    lines: list[str] = []
    for report in reports:
        lines += [
            f"{report['date']}, commit `{report['commit'][:10]}`, `{report['weights']}`, "
            f"`--smallest_face {report['smallest_face']:g}`:",
            "",
            "| picture | " + " | ".join(f"{side} px" for side in SIZES) + " |",
            "|" + "---|" * (len(SIZES) + 1),
        ]
        for size, row in report["recall"].items():
            cells = [
                f"{row[str(side)][0]} of {row[str(side)][1]}" if str(side) in row else ""
                for side in SIZES
            ]
            lines.append(f"| {size} | " + " | ".join(cells) + " |")
        if "without" in report:
            without = report["without"]
            lines += [
                "",
                f"{len(without['with a false face'])} of {without['pictures']} pictures without a "
                f"face ({without['megapixels']} megapixels together) show one, "
                f"{sum(len(one['sides']) for one in without['with a false face'])} in all.",
            ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the command line and measure, or print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--without", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--smallest_face", type=float, default=0.0)
    parser.add_argument("--megapixels", type=float, default=99.0, help="of a picture, at most")
    parser.add_argument("--int8", action="store_true", help="the detector in eight bits")
    parser.add_argument("--table", type=Path, nargs="+", metavar="REPORT")
    given = parser.parse_args()
    if given.table:
        print(tables([json.loads(path.read_text()) for path in given.table]))
        return
    if not (given.photos and given.without and given.output):
        parser.error("expected --photos, --without and --output, or --table")
    weights = INT8_WEIGHTS if given.int8 else WEIGHTS
    detector = FaceDetector(1, weights=weights, smallest=given.smallest_face)
    sizes = [size for size in PICTURES if size[0] * size[1] <= 1e6 * given.megapixels]
    grounds = opened(given.without)
    report = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "versions": versions(),
        "weights": weights.name,
        "smallest_face": given.smallest_face,
        "faces": len(parts := pieces(opened(given.photos))),
        "recall": recall(parts, grounds, detector, sizes),
    }
    if not given.smallest_face:
        report["without"] = false_faces(grounds, detector)
    given.output.write_text(json.dumps(report, indent=1) + "\n")
    print(tables([report]))


if __name__ == "__main__":
    main()
