"""The card of a model folder: README.md with the metadata that the Hugging Face Hub reads."""

import json
from importlib.resources import files
from typing import Any

import yaml

from fervor import datasets
from fervor.checkpoint import load_model
from fervor.config import Run


PACKAGED = {
    "face-mobilenet": "face_mobilenet.json",
    "face-resnet": "dlib_resnet.json",
    "vlm": "vlm/model.json",
    "embedded": "embedded/model.json",
    "mobilefacenet": "landmarks.json",
}
"""Descriptions of the packaged weights that a run takes where it names none."""
MINILM, VLM = "minilm_vectors.json", "vlm/model.json"
TEXTS = {"minilm": (MINILM,), "minilm-vectors": (MINILM,), "vlm": (MINILM, VLM)}
TEXTS["vlm-vectors"] = TEXTS["vlm"]
"""Descriptions of what the text encoders of the package were made from."""
DISCRETE = "classifier"
"""The method that asks its text encoder for nothing."""


def terms(run: Run) -> dict[str, str]:
    """Licence and data terms of what a run makes: those of its data set and of all weights in it.

    Raises:
        ModelError: the model that it starts from cannot be read.
    """
    start = run.encoder.weights
    start = PACKAGED.get(start or run.encoder.name, start or "random")
    licence = "Apache-2.0 (this training)"
    data_terms = [f"trained on {run.data.name}: {datasets.dataset(run.data.name).TERMS}"]
    if run.start:
        model = load_model(run.start).info
        licence += f"; starting weights {model['name']}: {model['licence']}"
        data_terms.append(f"starting weights {model['name']}: {model['data_terms']}")
    elif start in PACKAGED.values():
        weights = json.loads(_weights(start))
        licence += f"; starting weights {weights['name']}: {weights['licence']}"
        data_terms.append(f"starting weights {weights['name']} {weights['data_terms']}")
    elif start != "random":
        data_terms.append(f"starting weights {start}: the terms of their source apply")
    if run.method != DISCRETE:
        for name in TEXTS.get(run.text.name, ()):
            weights = json.loads(_weights(name))
            licence += f"; text encoder {weights['name']}: {weights['licence']}"
            data_terms.append(f"text encoder {weights['name']}: {weights['data_terms']}")
        if run.text.name not in TEXTS:
            data_terms.append(f"text encoder {run.text.name}: the terms of its source apply")
    for what, network in (("landmark network", run.landmarks), ("teacher", run.teacher)):
        if network.name == "none":
            continue
        if not network.weights and network.name in PACKAGED:
            weights = json.loads(_weights(PACKAGED[network.name]))
            licence += f"; {what} {weights['name']}: {weights['licence']}"
            data_terms.append(f"{what} {weights['name']}: {weights['data_terms']}")
        else:
            named = network.weights or f"{network.name} of the package"
            data_terms.append(f"{what} {named}: the terms of its source apply")
    return {"licence": licence, "data_terms": "; ".join(data_terms)}


def _weights(name: str) -> str:
    """The description of packaged weights."""
    return (files("fervor") / "weights" / name).read_text(encoding="utf-8")


def card(info: dict[str, Any]) -> str:
    """Markdown for a model.json's contents."""
    selection, data = info["selection"], info["data"]
    metadata = {
        "library_name": "fervor",
        "license": "other",
        "license_name": "see-licence-and-data-terms",
        "pipeline_tag": "image-classification",
        "datasets": [data["name"]],
        "metrics": ["accuracy", "f1"],
        "tags": ["facial-expression-recognition", info["method"]],
    }
    best_on_test = selection["mode"] == "paper"
    warning = (
        "\n**The epoch was chosen on the test split, as published results do: the figures below "
        "are no estimate for new pictures.**\n"
        if best_on_test
        else ""
    )
    wider = data.get("train_protocol", data["protocol"])
    training = "" if wider == data["protocol"] else f" (training pictures: `{wider}`)"
    runs = [f"`{run['name']}` (seed {run['seed']})" for run in info.get("average_of", [])]
    average = f" Its weights are the mean of those of {' and '.join(runs)}." if runs else ""
    counts = "\n".join(
        f"| {name} | {count:,} | {data['selection'][name]:,} |"
        for name, count in data["train"].items()
    )
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---
# {info["name"]}

Names the expression shown in a picture of a face: {", ".join(info["labels"])}. The answer is what
raters would call the expression, not what a person feels.

Method {info["method"]}, encoder {info["encoder"]["name"]}, input {info["input"]["size"]} px,
{info["parameters"]["all"]:,} parameters ({info["parameters"]["trainable"]:,} trained), seed
{info["seed"]}, commit {info["commit"] or "unknown"}.
{warning}
## Data

{data["name"]}, protocol `{data["protocol"]}`{training}; epoch {selection["epoch"]} was chosen on
`{selection["split"]}` ({selection["mode"]}): accuracy {selection["accuracy"]:.4f}, mean class
accuracy {selection["mean_class_accuracy"]:.4f}, macro F1 {selection["macro_f1"]:.4f}.
The temperature {info["temperature"]:.4f} was fitted there too.{average}

| class | train | selection |
|---|---|---|
{counts}

## Licence and data terms

Licence: {info["licence"]}.

Data terms: {info["data_terms"]}.

Use it to study or to help people, with their consent; not to judge applicants, employees or pupils,
where the European Union's AI Act forbids emotion inference.
"""
