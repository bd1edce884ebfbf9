"""Licence and data terms of what a run makes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fervor import plugins
from fervor.artifacts.model_card import _packaged
from fervor.artifacts.model_info import ModelInfo
from fervor.config import Run, published_name
from fervor.data import datasets
from fervor.data.distillation import read_logits
from fervor.methods import method_class


PACKAGED = {
    "face-mobilenet": "face_mobilenet.json",
    "face-resnet": "dlib_resnet.json",
    "vlm": "vlm",
    "embedded": "embedded",
    "mobilefacenet": "landmarks.json",
}
"""Descriptions of the packaged weights that a run takes where it names none, or model folders."""

MINILM, VLM = "minilm_vectors.json", "vlm"
TEXTS = {"minilm": (MINILM,), "minilm-vectors": (MINILM,), "vlm": (MINILM, VLM)}
TEXTS["vlm-vectors"] = TEXTS["vlm"]
TEXTS["simplex"] = ()
"""Descriptions of what the text encoders of the package were made from."""


SOURCE = "the terms of its source apply"


def terms(run: Run) -> dict[str, str]:
    """Licence and data terms of what a run makes: those of its data set and of all weights in it.

    Raises:
        ModelError: the model that it starts from cannot be read.
    """
    start = run.encoder.weights
    start = PACKAGED.get(start or run.encoder.name, start or "random")
    licences = ["Apache-2.0 (this training)"]
    data_terms = [(f"trained on {run.data.name}", datasets.dataset(run.data.name).TERMS)]

    def add(what: str, weights: Mapping[str, str]) -> None:
        licences.append(f"{what} {weights['name']}: {weights['licence']}")
        data_terms.append((f"{what} {weights['name']}", weights["data_terms"]))

    if run.start:
        model = ModelInfo.read(run.start)
        licences.append(f"starting weights {model.name}: {model.licence}")
        data_terms.append((f"starting weights {model.name}", model.data_terms))
    elif start in PACKAGED.values():
        add("starting weights", _packaged(start))
    elif start != "random":
        data_terms.append((f"starting weights {published_name(start)}", SOURCE))
    if run.data.teachers:
        for teacher in read_logits(Path(run.data.teachers)).teachers:
            stated = teacher.get("data_terms", SOURCE)
            data_terms.append((f"targets from {teacher.get('name', 'a teacher')}", stated))
    if method_class(run.method).uses_text:
        text = run.text.name.removeprefix(plugins.SHUFFLED)
        for name in TEXTS.get(text, ()):
            add("text encoder", _packaged(name))
        if text not in TEXTS:
            stated = SOURCE
            if plugins.known("text_encoders", text):
                stated = getattr(plugins.load("text_encoders", text), "terms", stated)
            data_terms.append((f"text encoder {published_name(text)}", stated))
    for what, network in (("landmark network", run.landmarks), ("teacher", run.teacher)):
        if network.name == "none":
            continue
        if not network.weights and network.name in PACKAGED:
            add(what, _packaged(PACKAGED[network.name]))
        else:
            named = network.weights or f"{network.name} of the package"
            if plugins.is_reference(network.name):
                named = network.weights or network.name
            data_terms.append((f"{what} {published_name(named)}", SOURCE))
    parts = [method_class(run.method), plugins.load("image_encoders", run.encoder.name)]
    if run.teacher.name != "none":
        parts.append(plugins.load("image_encoders", run.teacher.name))
    declared = [getattr(part, "terms", "") for part in parts]
    said = "; ".join(filter(None, [_said_once(data_terms), *declared]))
    return {"licence": _joined(licences), "data_terms": said}


def _joined(licences: Sequence[str]) -> str:
    """The parts' licences, a part that an earlier one holds left out."""
    text = ""
    for part in licences:
        if part not in text:
            text += f"; {part}" if text else part
    return text


def _said_once(data_terms: Sequence[tuple[str, str]]) -> str:
    """What each part brings, without terms that an earlier part has said: models share sources."""
    said: set[str] = set()
    text: list[str] = []
    for part, stated in data_terms:
        terms_by_clause = {clause: clause.rpartition(": ")[2] for clause in stated.split("; ")}
        new = [clause for clause, own in terms_by_clause.items() if own not in said]
        if new or not any(f"{part}: " in earlier for earlier in text):
            text.append(f"{part}: {'; '.join(new) or 'no further terms'}")
        said |= {*terms_by_clause.values()} - {SOURCE}
    return "; ".join(text)
