"""Quantise a packaged model to 8 bits, and compare both of its graphs: accuracy and time.

    python tools/weights/measure_int8.py FERPLUS [--model embedded] [--make] [--split valid]

With --make the graph and its checksum are written into the model's folder; the ranges are read
from 256 FERPlus train faces (`fervor.graphs.quantize`). Then the share of equal answers and the
graph's own temperature, both on valid, are written there, too. Accuracy is under the protocol
`majority`; time is the processor's for a face, on one thread. Needs fervor[train].
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fervor.artifacts.model_info import GRAPH, INT8_GRAPH, Int8, ModelInfo
from fervor.artifacts.reader import open_session
from fervor.data.datasets import Sample, load
from fervor.evaluation.metrics import fitted_temperature, softmax, summary
from fervor.graphs.quantize import FACES, add_int8
from fervor.inference.precision import as_computed
from fervor.io.image import to_input
from fervor.io.onnx_session import Session


BATCH = 32


def read(samples: Sequence[Sample], size: int) -> NDArray[np.float32]:
    """Inputs [n 3 size size]."""
    return np.stack([to_input(Image.open(sample.path), size) for sample in samples])


def times(sessions: dict[str, Session], images: NDArray[np.float32]) -> dict[str, float]:
    """Least of ten, measured in turn."""
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(10):
        for name, ready in sessions.items():
            start = time.process_time()
            ready.run(["logits"], {"image": images})
            best[name] = min(best[name], 1000 * (time.process_time() - start) / len(images))
    return {name: round(value, 2) for name, value in best.items()}


def main() -> None:
    """Quantise where asked to, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    given = parser.parse_args()
    if given.make and given.split != "valid":
        parser.error("--make measures on valid")
    info = ModelInfo.read(given.model)
    size = info.input.size
    if given.make:
        train = load("ferplus", given.root, "train", protocol="majority")
        print(add_int8(info.folder, read(random.Random(0).sample(train, FACES), size)))
        info = ModelInfo.read(given.model)
    samples = load("ferplus", given.root, given.split, protocol="majority")
    images = read(samples, size)
    truth = np.array([info.labels.index(sample.label) for sample in samples])
    sessions = {
        name: open_session(info, 1, name=file)
        for name, file in (("fp32", GRAPH), ("int8", INT8_GRAPH))
    }
    result, answers, temperature = {}, {}, {"fp32": info.temperature}
    temperature["int8"] = as_computed(info, "int8").temperature
    for name, ready in sessions.items():
        logits = np.concatenate(
            [
                ready.run(["logits"], {"image": images[start : start + BATCH]})[0]
                for start in range(0, len(images), BATCH)
            ]
        )
        if given.make and name == "int8":
            temperature[name] = fitted_temperature(logits, truth)
        figures = summary(softmax(logits, temperature[name]), truth, info.labels)
        answers[name] = logits.argmax(axis=1)
        keys = ("accuracy", "mean_class_accuracy", "negative_log_likelihood", "calibration_error")
        result[name] = {key: round(figures[key], 4) for key in keys}
    print(json.dumps({"pictures": len(samples), **result}))
    alike = round(float((answers["fp32"] == answers["int8"]).mean()), 4)
    print("same answer", alike, "temperature", temperature)
    if given.make:
        replace(info, int8=Int8(len(samples), alike, temperature["int8"])).write()
    for count in (1, 8, 64):
        print(f"milliseconds a face, batch {count}: {times(sessions, images[:count])}", flush=True)


if __name__ == "__main__":
    main()
