"""What the packaged models answer to real and drawn faces, a folder and a video, as plain values.

`python -m tests.support.answers FERPLUS` stores it under tests/golden, of whatever fervor is found.
"""

import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from tests.support.drawn import face
from tests.support.scenes import scene
from tests.support.videos import portrait, write_video


GOLDEN = Path(__file__).parents[1] / "golden"
ROWS, FACES = GOLDEN / "rows.json", GOLDEN / "real_faces.npz"
MODELS = ("embedded", "vlm")
COUNT = 200
EXPRESSIONS = ("neutral", "happiness", "surprise", "anger")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """What the last bits of an answer depend on beside the code: instructions and libraries."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    return {
        "machine": platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        **{name: version(name) for name in ("onnxruntime", "numpy", "pillow")},
    }


def real_faces(root: Path, model: str) -> NDArray[np.float64]:
    """Probabilities [n c] of the first faces of FERPlus's validation split, by their names."""
    paths = sorted((root / "FER2013Valid").glob("*.png"))[:COUNT]
    crops = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return Predictor(model, faces="precropped", threads=1).classify(crops)


def rows(model: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of a folder of drawn faces, of a folder of scenes and of a video of eight frames."""
    with tempfile.TemporaryDirectory() as root:
        drawn, scenes = Path(root, "drawn"), Path(root, "scenes")
        drawn.mkdir()
        scenes.mkdir()
        for seed, expression in enumerate(EXPRESSIONS):
            Image.fromarray(face(expression, seed)).save(drawn / f"{expression}.png")
        scene(640, 480, [(120, 80, 100), (160, 380, 200)])[0].save(scenes / "two.png")
        scene(320, 240, [], seed=1)[0].save(scenes / "none.png")
        frames = (portrait(100 + 8 * place, 120) for place in range(8))
        video = write_video(Path(root, "video.mkv"), frames, codec="ffv1")
        found = Predictor(model, threads=1)
        parts = {
            "drawn": Predictor(model, faces="precropped", threads=1).rows(drawn),
            "scenes": found.rows(scenes),
            "video": found.rows(video),
        }
    for row in (row for part in parts.values() for row in part):
        row["source"] = Path(row["source"]).name
    return parts


def store(root: Path) -> None:
    """Write what is answered on this machine."""
    stored = {"machine": machine(), **{model: rows(model) for model in MODELS}}
    ROWS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(FACES, **{model: real_faces(root, model) for model in MODELS})


if __name__ == "__main__":
    store(Path(sys.argv[1]))
