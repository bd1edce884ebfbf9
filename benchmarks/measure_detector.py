"""Measure the face detector and the crops: recall, false faces, speed, and how well a crop returns.

    python benchmarks/measure_detector.py --ferplus FERPLUS [--photos FOLDER] [--count 500] [--int8]

FERPLUS holds FER2013Test and FER2013Valid. A picture of 48 px is enlarged to 192 px by bicubic
interpolation and its edge repeated for 48 px around it. Pictures without a face are scikit-image's
(`pip install scikit-image`). Printed: one JSON object. Speed is CPU time.
"""

import argparse
import json
import platform
import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from fervor.faces.alignment import crop, square
from fervor.faces.anchors import letterbox, place
from fervor.faces.detector import INT8_WEIGHTS, WEIGHTS, FaceDetector
from fervor.faces.types import Face, iou


Pixels = NDArray[np.uint8]

SIDE, BORDER = 192, 48
BATCH = 25
WITHOUT_FACE = (
    "brick.png cell.png chelsea.png chessboard_GRAY.png chessboard_RGB.png clock_motion.png "
    "coffee.png coins.png color.png grass.png gravel.png horse.png hubble_deep_field.jpg ihc.png "
    "logo.png microaneurysms.png moon.png motorcycle_left.png motorcycle_right.png "
    "no_time_for_that_tiny.gif page.png phantom.png retina.jpg rocket.jpg text.png"
).split()
"""Of scikit-image 0.26; astronaut.png and camera.png show a person."""


def read(path: Path) -> Pixels:
    """A picture as RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def enlarged(path: Path, *, side: int = SIDE, border: int = BORDER) -> Pixels:
    """A FERPlus picture as it is put to the detector."""
    large = Image.fromarray(read(path)).resize((side, side), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), ((border, border), (border, border), (0, 0)), mode="edge")


def detect(
    detector: FaceDetector, paths: list[Path], show: Callable[[Path], Pixels]
) -> list[list[Face]]:
    """Faces in each file as `show` reads it, in batches."""
    starts = range(0, len(paths), BATCH)
    batches = ([show(path) for path in paths[start : start + BATCH]] for start in starts)
    return [faces for batch in batches for faces in detector.detect(batch)]


def turned(path: Path, angle: float) -> Pixels:
    """A FERPlus picture as it is put to the detector, rotated."""
    image = Image.fromarray(enlarged(path))
    return np.asarray(image.rotate(angle, Image.Resampling.BICUBIC))


def recall(detector: FaceDetector, paths: list[Path], *, tilted: int) -> dict[str, Any]:
    """Pictures of FERPlus with a face found; the first `tilted` of them rotated too."""
    bordered = detect(detector, paths, enlarged)
    result: dict[str, Any] = {
        "pictures": len(paths),
        "found": sum(bool(faces) for faces in bordered),
        "missed": [path.name for path, faces in zip(paths, bordered, strict=True) if not faces],
        "more than one": sum(len(faces) > 1 for faces in bordered),
    }
    for side in (48, 192, 640):
        found = detect(detector, paths, partial(enlarged, side=side, border=0))
        result[f"without border, {side} px"] = sum(bool(faces) for faces in found)
    for angle in (15, 30, 45, 60, 90, 180):
        found = detect(detector, paths[:tilted], partial(turned, angle=angle))
        result[f"turned by {angle}, of {tilted}"] = sum(bool(faces) for faces in found)
    return result


def false_faces(detector: FaceDetector) -> dict[str, Any]:
    """What is found where nothing is: scikit-image's pictures, whole and in random pieces."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    images = {name: read(folder / name) for name in WITHOUT_FACE}
    whole = {
        name: [round(face.score, 2) for face in faces]
        for name, faces in zip(images, detector.detect(list(images.values())), strict=True)
        if faces
    }
    generator, pieces = random.Random(0), []
    for image in images.values():
        for _ in range(6):
            side = int(min(image.shape[:2]) * generator.uniform(0.3, 1))
            y = generator.randint(0, image.shape[0] - side)
            x = generator.randint(0, image.shape[1] - side)
            pieces.append(image[y : y + side, x : x + side])
    found = detector.detect(pieces)
    return {
        "pictures": len(images),
        "with a false face": whole,
        "pieces": len(pieces),
        "pieces with a false face": sum(bool(faces) for faces in found),
    }


def speed(image: Pixels, weights: Path) -> dict[str, float]:
    """Milliseconds of CPU time on one thread; the first run of a size is cold."""
    start = time.process_time()
    detector = FaceDetector(1, weights=weights)
    result = {"session": 1000 * (time.process_time() - start)}
    for width, height in ((512, 512), (640, 480), (1920, 1080), (4000, 3000)):
        resized = np.asarray(Image.fromarray(image).resize((width, height)))
        times = []
        for _ in range(12):
            start = time.process_time()
            faces = detector.detect([resized])[0]
            times.append(1000 * (time.process_time() - start))
        result[f"{width} x {height}, first"] = times[0]
        result[f"{width} x {height}, median"] = float(np.median(times[1:]))
        start = time.process_time()
        crop(resized, faces[0], 48)
        result[f"{width} x {height}, crop"] = 1000 * (time.process_time() - start)
    return {name: round(value, 1) for name, value in result.items()}


def reproduction(detector: FaceDetector, paths: list[Path]) -> dict[str, dict[str, float]]:
    """How far the crop of an enlarged picture lies from the picture, in pixels of its 48."""
    faces = [found[0] for found in detect(detector, paths, enlarged) if found]
    outer = SIDE + 2 * BORDER
    result = {}
    for name, rotate in (("upright", False), ("turned", True)):
        matrices = np.array([square(face, outer, outer, rotate=rotate) for face in faces])
        corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]])
        ends = (corners @ matrices.transpose(0, 2, 1) - BORDER) / SIDE
        distance = 48 * np.linalg.norm(ends - corners[:, :2], axis=2).mean(axis=1)
        middle = 48 * ((matrices @ [0.5, 0.5, 1] - BORDER) / SIDE - 0.5)
        side = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) / SIDE
        angle = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
        result[name] = {
            "faces": len(faces),
            "corner displacement, mean": distance.mean(),
            "corner displacement, median": np.median(distance),
            "corner displacement, 90 %": np.quantile(distance, 0.9),
            "turn in degrees, mean": np.abs(angle).mean(),
            "side, mean": side.mean(),
            "side, deviation": side.std(),
            "centre, deviation": middle.std(axis=0).mean(),
        }
        result[name] = {key: round(float(value), 3) for key, value in result[name].items()}
    return result


def seen_at(detector: FaceDetector, photo: Pixels, side: int) -> list[Face]:
    """The faces of a photograph whose longer side has `side` pixels in the network's input."""
    frame = letterbox(*photo.shape[:2], low=side, high=side)
    canvas = np.empty((480, 480, 3), np.uint8)
    place(photo, frame, canvas)
    found = []
    for face in detector.detect([canvas], passes=1)[0]:
        x, y, width, height = (np.reshape(face.box, (2, 2)) * frame.scale).ravel().tolist()
        found.append(Face((x, y, width, height), face.points * frame.scale, face.score))
    return found


def by_size(photos: list[Pixels], weights: Path) -> dict[str, Any]:
    """Of the faces that a look at 1280 pixels shows, those found where they are smaller.

    By their longer side in the network's input, in steps of 4 pixels. What was found must share 0.4
    with the reference's box (intersection over union); its points' distance from the reference's is
    a share of that box. The reference is in single precision.
    """
    counts: defaultdict[int, list[float]] = defaultdict(list)
    detector = FaceDetector(1, weights=weights)
    reference = FaceDetector(1, high=1280).detect(photos, passes=1)
    false = 0
    for side in range(160, 420, 10):
        for photo, faces in zip(photos, reference, strict=True):
            small = seen_at(detector, photo, side)
            hits = 0
            for face in faces:
                best = max(small, key=lambda other: iou(other.box, face.box), default=None)
                hit = best is not None and iou(best.box, face.box) > 0.4
                hits += hit
                away = np.abs(best.points - face.points).mean() if hit and best else np.inf
                shown = max(face.box[2:]) * side / max(photo.shape[:2])
                counts[int(shown) // 4 * 4].append(float(away / max(face.box[2:])))
            false += len(small) - hits
    return {"more than the reference": false} | {
        f"{low} to {low + 4} px": {
            "views": len(away),
            "found": int(np.isfinite(away).sum()),
            "points": round(float(np.mean([x for x in away if np.isfinite(x)])), 3),
        }
        for low, away in sorted(counts.items())
    }


def main() -> None:
    """Read the command line and print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferplus", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder of .jpg: faces found in each")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--int8", action="store_true", help="the detector in eight bits")
    arguments = parser.parse_args()
    weights = INT8_WEIGHTS if arguments.int8 else WEIGHTS
    detector = FaceDetector(1, weights=weights)
    test = sorted((arguments.ferplus / "FER2013Test").glob("*.png"))[: arguments.count]
    valid = sorted((arguments.ferplus / "FER2013Valid").glob("*.png"))
    random.Random(0).shuffle(valid)
    example = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
    report = {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "weights": weights.name,
        "speed": speed(read(example), weights),
        "false faces": false_faces(detector),
        "reproduction": reproduction(detector, valid[:1500]),
        "recall": recall(detector, test, tilted=100),
    }
    if arguments.photos:
        report["photos"] = {
            path.name: len(detector.detect([read(path)])[0])
            for path in sorted(arguments.photos.glob("*.jpg"))
        }
        report["photos, by size"] = by_size(
            [read(path) for path in sorted(arguments.photos.glob("*.jpg"))], weights
        )
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
