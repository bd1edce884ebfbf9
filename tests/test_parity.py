"""The shipped model gives the same answers whichever way a face reaches it, on real pictures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fervor import Predictor
from fervor.artifacts.model_info import GRAPH, ModelInfo
from fervor.cli.main import main
from fervor.config import Data
from fervor.data import datasets
from fervor.data.image_set import read_images
from fervor.data.loading import evaluation_batches
from fervor.evaluation.evaluate import evaluate, onnx_logits, torch_logits
from fervor.methods.build import build


def test_onnx_and_torch_agree_on_real_faces(ferplus: Path) -> None:
    info = ModelInfo.read("embedded")
    samples = datasets.load("ferplus", ferplus, "valid")[:100]
    pictures = read_images(samples, info.labels, size=info.input.size)
    batches = list(evaluation_batches(pictures, size=info.input.size))
    graph, torch = (
        onnx_logits(info.folder / GRAPH, batches),
        torch_logits(build(info), batches),
    )
    assert float(np.abs(graph - torch).max()) < 1e-4


@pytest.mark.slow
def test_predict_equals_evaluate_to_the_last_picture(ferplus: Path, tmp_path: Path) -> None:
    data = Data(root=str(ferplus), protocol="argmax8", cache="")
    path, result = evaluate("embedded", data, output=str(tmp_path))
    assert json.loads(path.read_text())["correct"] == result["correct"]
    rows = tmp_path / "rows.csv"
    command = ["predict", str(ferplus / "FER2013Test"), "--faces", "precropped"]
    command += ["--precision", "fp32"]
    assert main([*command, "--output", str(rows)]) == 0
    truth = {
        Path(sample.path).name: sample.label
        for sample in datasets.load("ferplus", ferplus, "test", protocol="argmax8")
    }
    with rows.open(newline="") as file:
        answers = {Path(row["source"]).name: row["label"] for row in csv.DictReader(file)}
    assert len(answers) == result["count"] == 3573
    assert sum(answers[name] == label for name, label in truth.items()) == result["correct"]


def pasted(face: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """The face at 192 px, its border continued for 48 px, somewhere in a grey 640 x 480 picture."""
    scene = np.full((480, 640, 3), 128, np.uint8)
    large = np.asarray(Image.fromarray(face).resize((192, 192), Image.Resampling.BICUBIC))
    framed = np.pad(large, 48, mode="edge")
    top, left = (int(generator.integers(0, limit - len(framed))) for limit in (480, 640))
    scene[top : top + len(framed), left : left + len(framed)] = framed[:, :, None]
    return scene


@pytest.mark.slow
def test_a_pasted_face_loses_at_most_a_point(ferplus: Path) -> None:
    """On the images that the crop was chosen on; docs/decisions/model-0.2.md has those of test."""
    samples = datasets.load("ferplus", ferplus, "valid")
    faces = [np.asarray(Image.open(sample.path).convert("L")) for sample in samples]
    generator = np.random.default_rng(0)
    whole = Predictor(faces="precropped")([np.repeat(face[:, :, None], 3, 2) for face in faces])
    found = Predictor(faces="largest")
    right = {"precropped": 0, "pasted": 0}
    for face, sample, direct in zip(faces, samples, whole, strict=True):
        right["precropped"] += direct[0].label == sample.label
        answer = found(pasted(face, generator))
        right["pasted"] += bool(answer) and answer[0].label == sample.label
    lost = (right["precropped"] - right["pasted"]) / len(samples)
    print(right)
    assert lost <= 0.01, f"{right} of {len(samples)}"
