"""Make the embedded model: the mean of the weights of a run and of the run that goes on from it.

    fervor train --config ke/ferplus-mobilenet --data.root FERPLUS
    fervor train --config ke/ferplus-mobilenet-refined --data.root FERPLUS
    python tools/weights/make_embedded.py FERPLUS \\
        runs/ke/ferplus-mobilenet-seed0 runs/ke/ferplus-mobilenet-refined-seed0

Averaging the weights of runs that share their beginning: Wortsman et al., 2022, "Model soups". One
run alone is taken as it is. The model predicts from the mean with the mirror image, at twice the
time, only with --mirror; both are measured on validation, where the temperature is fitted anew.
Then it is exported in half precision. Test is not read.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fervor.artifacts.model_card import card
from fervor.artifacts.model_info import EMBEDDED, ModelInfo
from fervor.data import datasets
from fervor.data.image_set import read_images
from fervor.data.loading import evaluation_batches
from fervor.evaluation.evaluate import torch_logits
from fervor.evaluation.metrics import fitted_temperature, softmax, summary
from fervor.graphs.onnx import export
from fervor.methods import build
from fervor.methods.base import Method
from fervor.models.image import FaceEncoder


NAME = "ke/ferplus-mobilenet-averaged"


def averaged(models: Sequence[ModelInfo]) -> tuple[ModelInfo, Method]:
    """The last run's description with the mean of all runs' weights.

    Statistics of BatchNorm are averaged like weights: the runs' layers below them are alike.
    """
    info = models[-1]
    method = build.build(info)
    if len(models) == 1:
        return info, method
    states = [build.build(model).state_dict() for model in models]
    mean: dict[str, Tensor] = {
        key: torch.stack([state[key] for state in states]).mean(0)
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
    method.load_state_dict(mean)
    runs = [
        {key: model.content()[key] for key in ("name", "seed", "commit", "sha256")}
        for model in models
    ]
    first = models[0]  # its terms: the others start from it and see the same data set
    info = replace(info, name=NAME, average_of=tuple(runs))
    return replace(info, licence=first.licence, data_terms=first.data_terms), method


def main() -> None:
    """Measure both, fit, export; prints what validation said."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the FERPlus folder")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, the last one last")
    parser.add_argument("--output", type=Path, default=EMBEDDED)
    parser.add_argument("--mirror", action="store_true", help="predict with the mirror image, too")
    given = parser.parse_args()
    info, method = averaged([ModelInfo.read(run) for run in given.runs])
    encoder = method.image
    assert isinstance(encoder, FaceEncoder), "the embedded model has a face-pretrained encoder"
    samples = datasets.load(info.data.name, given.root, "valid", protocol=info.data.protocol)
    size = info.input.size
    pictures = read_images(samples, info.labels, size=size)
    label = pictures.label.numpy()
    chosen = {}
    for mirror in (False, True):
        encoder.mirror = mirror
        logits = torch_logits(method, evaluation_batches(pictures, size=size))
        temperature = fitted_temperature(logits, label)
        figures = summary(softmax(logits, temperature), label, info.labels)
        chosen[mirror] = (figures, temperature)
        print(
            f"mirror {mirror!s:5}: accuracy {figures['accuracy']:.4f}, macro F1 "
            f"{figures['macro_f1']:.4f}, temperature {temperature:.4f}, calibration error "
            f"{figures['calibration_error']:.4f}"
        )
    encoder.mirror = given.mirror
    figures, temperature = chosen[given.mirror]
    names = ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood")
    measured = {name: figures[name] for name in (*names, "calibration_error")}
    info = replace(
        info,
        encoder=replace(info.encoder, mirror=given.mirror),
        temperature=temperature,
        operating_points=None,  # fit_points.py finds them anew
        int8=None,
        selection=replace(info.selection, **measured),
    )
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        build.save_model(Path(folder), method.state_dict(), info, card(info))
        print(export(folder, str(given.output), half=True))


if __name__ == "__main__":
    main()
