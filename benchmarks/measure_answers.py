"""The three answers that LaCoVL-FER has for a single picture, on validation pictures.

Usage: python benchmarks/measure_answers.py RUN --root FERPLUS [--output FILE.json]

A picture to predict has no partner and is its own, so the training objective does not say whether
the visual head (vis), the semantic one (sem) or both (sum) should answer. One pass gives all three;
temperature is not fitted.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fervor.artifacts.model_info import ModelInfo
from fervor.data import datasets
from fervor.data.image_set import read_images
from fervor.data.loading import evaluation_batches
from fervor.evaluation import results
from fervor.evaluation.evaluate import origin
from fervor.evaluation.metrics import softmax, summary
from fervor.methods.build import build
from fervor.methods.lacovl.method import LaCoVL, Logits


ANSWERS: tuple[Literal["sum", "vis", "sem"], ...] = ("sum", "vis", "sem")
METRICS = ("accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood")


@torch.inference_mode()
def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", help="run folder of method lacovl, trained with a teacher")
    parser.add_argument("--root", required=True, help="folder of FERPlus")
    parser.add_argument("--output", type=Path, help="result file to write")
    arguments = parser.parse_args()
    info = ModelInfo.read(arguments.run)
    method = build(info)
    if not isinstance(method, LaCoVL) or method.semantic is None:
        parser.error(f"{arguments.run} is no run of method lacovl with a teacher")
    samples = datasets.load("ferplus", arguments.root, "valid", protocol="majority")
    pictures = read_images(samples, method.labels, size=info.input.size)
    logits: dict[str, list[np.ndarray]] = {answer: [] for answer in ANSWERS}
    told = method.answer

    def every_answer(found: Logits) -> Tensor:
        for name in ANSWERS:
            method.options = replace(method.options, predict=name)
            logits[name].append(told(found).float().numpy())
        return told(found)

    method.answer = every_answer  # type: ignore[method-assign, assignment]
    for batch in evaluation_batches(pictures, size=info.input.size):
        method(batch.images())
    label = pictures.label.numpy()
    rows = {}
    for answer, parts in logits.items():
        found = summary(softmax(np.concatenate(parts), 1.0), label, method.labels)
        rows[answer] = {name: found[name] for name in METRICS}
    print(json.dumps(rows, indent=1))
    if arguments.output:
        data = {"name": "ferplus", "protocol": "majority", "split": "valid"}
        result = origin(info, data) | {"count": len(label), "answers": rows}
        results.write(arguments.output, result)


if __name__ == "__main__":
    main()
