"""Make the embedded model from a run of the recipe ke/ferplus-mobilenet.

    fervor train --config ke/ferplus-mobilenet --data.root FERPLUS
    python scripts/weights/make_embedded.py runs/ke/ferplus-mobilenet-seed0 FERPLUS

Whether it predicts from the mean with the mirror image is decided on validation, where its
temperature is fitted anew; then it is exported in half precision. Test is not read.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from fervor import checkpoint, datasets
from fervor.card import card
from fervor.config import Encoder
from fervor.data import evaluation_batches, read_pictures
from fervor.encoders import FaceEncoder
from fervor.evaluation import fitted_temperature, softmax, summary, torch_logits
from fervor.export import export


def main() -> None:
    """Choose, fit, export; prints what validation said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--output", type=Path, default=checkpoint.EMBEDDED)
    given = parser.parse_args()
    model = checkpoint.load_model(given.run)
    info, method = model.info, model.method()
    encoder = method.image
    assert isinstance(encoder, FaceEncoder), "the embedded model has a face-pretrained encoder"
    samples = datasets.load(
        info["data"]["name"], given.root, "valid", protocol=info["data"]["protocol"]
    )
    size = info["input"]["size"]
    pictures = read_pictures(samples, info["labels"], size=size)
    label = pictures.label.numpy()
    chosen = {}
    for mirror in (False, True):
        encoder.mirror = mirror
        logits = torch_logits(method, evaluation_batches(pictures, size=size))
        temperature = fitted_temperature(logits, label)
        figures = summary(softmax(logits, temperature), label, info["labels"])
        chosen[mirror] = (figures, temperature)
        print(
            f"mirror {mirror!s:5}: accuracy {figures['accuracy']:.4f}, macro F1 "
            f"{figures['macro_f1']:.4f}, temperature {temperature:.4f}, calibration error "
            f"{figures['calibration_error']:.4f}"
        )
    mirror = max(chosen, key=lambda option: chosen[option][0]["accuracy"])
    figures, temperature = chosen[mirror]
    names = ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood")
    info = info | {
        "encoder": dataclasses.asdict(
            dataclasses.replace(Encoder(**info["encoder"]), mirror=mirror)
        ),
        "temperature": temperature,
        "selection": info["selection"]
        | {name: figures[name] for name in (*names, "calibration_error")},
    }
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoint.save_model(Path(folder), method.state_dict(), info, card(info))
        print(export(folder, str(given.output), half=True))


if __name__ == "__main__":
    main()
