"""Print TEMPLATE and BOX_TEMPLATE of fervor.faces.alignment: mean
points and boxes of FERPlus's pictures.

    python tools/weights/make_template.py FER2013Train

A sample of the training pictures (48 px) is enlarged to 192 px by bicubic interpolation, its edge
repeated for 48 px around it; the mean of what the detector finds, together with its mirror images,
is written in coordinates where the picture is the unit square, which is then drawn in to --draw-in
of its side around its centre.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.faces.detector import FaceDetector


SIDE, BORDER = 192, 48
BATCH = 100


def enlarged(path: Path) -> NDArray[np.uint8]:
    """A picture of FERPlus with the border in which the detector expects a face."""
    with Image.open(path) as image:
        large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")


def landmarks(paths: list[Path]) -> NDArray[np.float64]:
    """Five points, then two corners of the box, of each picture with a face [n 7 2]."""
    detector = FaceDetector()
    rows = []
    for start in range(0, len(paths), BATCH):
        for faces in detector.detect([enlarged(path) for path in paths[start : start + BATCH]]):
            if faces:
                x, y, width, height = faces[0].box
                rows.append([*faces[0].points.tolist(), [x, y], [x + width, y + height]])
    return (np.array(rows) - BORDER) / SIDE


def mirrored(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same marks of the mirrored pictures, left and right exchanged."""
    other = points * [-1, 1] + [1, 0]
    other[:, :5] = other[:, [1, 0, 2, 4, 3]]
    other[:, 5:, 0] = other[:, [6, 5], 0]
    return other


def main() -> None:
    """Read the command line and print both constants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="FER2013Train of FERPlus")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw-in", type=float, default=0.88)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.png"))
    if not paths:
        raise SystemExit(f"{arguments.folder} holds no .png: expected FER2013Train of FERPlus")
    random.Random(arguments.seed).shuffle(paths)
    found = landmarks(paths[: arguments.count])
    points = np.concatenate([found, mirrored(found)])
    mean = points.mean(axis=0)
    drawn = (0.5 + (mean - 0.5) / arguments.draw_in).round(4)
    print(f"faces: {len(found)} of {min(arguments.count, len(paths))} pictures")
    print("mean", mean.round(4).tolist())
    print("TEMPLATE", drawn[:5].tolist())
    (left, top), (right, bottom) = drawn[5:].tolist()
    print("BOX_TEMPLATE", [[left, top], [right, top], [left, bottom], [right, bottom]])
    print("standard deviation", points.std(axis=0).round(3).tolist())


if __name__ == "__main__":
    main()
