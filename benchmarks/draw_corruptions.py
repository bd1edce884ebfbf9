"""Draw docs/images/corruptions.png: one face under every corruption at every severity.

    python benchmarks/draw_corruptions.py [--output FILE.png]

The face is examples/astronaut.jpg (NASA, public domain), cut out as `predict` does it.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fervor.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from fervor.faces.alignment import crop
from fervor.faces.detector import FaceDetector, select
from fervor.io.image import to_rgb


ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "images" / "corruptions.png"
SIDE = 48
NAMES = 96
"""Pixels for a corruption's name."""

GAP = 3


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="image file to write")
    path = parser.parse_args().output
    with Image.open(ROOT / "examples" / "astronaut.jpg") as picture:
        pixels = to_rgb(picture)
    face = select(FaceDetector().detect([pixels])[0], "largest")[0]
    clean = crop(pixels, face, SIDE)
    kinds = list(CORRUPTIONS)
    halves = [kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]]
    step = SIDE + GAP
    width = NAMES + (1 + len(SEVERITIES)) * step
    sheet = Image.new("RGB", (2 * width + GAP, step * len(halves[0])), "white")
    draw = ImageDraw.Draw(sheet)
    for column, names in enumerate(halves):
        left = column * (width + GAP)
        for row, name in enumerate(names):
            top = row * step
            draw.text((left + 4, top + SIDE // 2 - 6), name.replace("_", " "), fill="black")
            shown = [clean, *(corrupt(clean, name, severity) for severity in SEVERITIES)]
            for place, image in enumerate(shown):
                at = (left + NAMES + place * step, top)
                sheet.paste(Image.fromarray(np.ascontiguousarray(image)), at)
    sheet.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
