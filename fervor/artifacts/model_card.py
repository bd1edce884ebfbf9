"""The card of a model folder: README.md with the metadata that the Hugging Face Hub reads."""

import json
from importlib.resources import files
from typing import Any

import yaml

from fervor import plugins
from fervor.artifacts.model_info import ModelInfo


def _packaged(name: str) -> dict[str, Any]:
    """The description of packaged weights."""
    if not name.endswith(".json"):
        return ModelInfo.read(name).content()
    text = (files("fervor") / "weights" / name).read_text(encoding="utf-8")
    description: dict[str, Any] = json.loads(text)
    return description


def card(info: ModelInfo) -> str:
    """Markdown for a model's description."""
    selection, data = info.selection, info.data
    metadata = {
        "library_name": "fervor",
        "license": "other",
        "license_name": "see-licence-and-data-terms",
        "pipeline_tag": "image-classification",
        "datasets": [plugins.title(data.name)],
        "metrics": ["accuracy", "f1"],
        "tags": ["facial-expression-recognition", plugins.title(info.method)],
    }
    best_on_test = selection.mode == "paper"
    warning = (
        "\n**The epoch was chosen on the test split, as published results do: the figures below "
        "are no estimate for new pictures.**\n"
        if best_on_test
        else ""
    )
    wider = data.train_protocol or data.protocol
    training = "" if wider == data.protocol else f" (training pictures: `{wider}`)"
    runs = [f"`{run['name']}` (seed {run['seed']})" for run in info.average_of]
    average = f" Its weights are the mean of those of {' and '.join(runs)}." if runs else ""
    named = [f"`{model.get('name', 'unnamed')}`" for model in info.teachers]
    taught = f" Targets were mixed with the answers of {' and '.join(named)}." if named else ""
    counts = "\n".join(
        f"| {name} | {count:,} | {data.selection.get(name, 0):,} |"
        for name, count in data.train.items()
    )
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---
# {info.name}

Names the expression shown in a picture of a face: {", ".join(info.labels)}. The answer is what
raters would call the expression, not what a person feels.

Method {info.method}, encoder {info.encoder.name}, input {info.input.size} px,
{info.parameters.all:,} parameters ({info.parameters.trainable:,} trained), seed
{info.seed}, commit {info.commit or "unknown"}.
{warning}
## Data

{data.name}, protocol `{data.protocol}`{training}; epoch {selection.epoch + 1} was chosen on
`{selection.split}` ({selection.mode}): accuracy {selection.accuracy:.4f}, mean class
accuracy {selection.mean_class_accuracy:.4f}, macro F1 {selection.macro_f1:.4f}.
The temperature {info.temperature:.4f} was fitted to the same pictures.{average}{taught}

| class | train | selection |
|---|---|---|
{counts}

## Licence and data terms

Licence: {info.licence}.

Data terms: {info.data_terms}.

Use it to study or to help people, with their consent; not to judge applicants, employees or pupils,
where the European Union's AI Act forbids emotion inference.
"""
