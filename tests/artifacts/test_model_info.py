"""A model.json is read as what it is, or one line says which entry does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fervor.artifacts.model_info import (
    DESCRIPTION,
    FILES,
    GRAPH,
    ModelInfo,
    find_model,
    whole_numbers,
)
from fervor.errors import ModelError
from tests.support.models import LABELS, write_model


EARLIER = Path(__file__).parents[1] / "data" / "version-0.1" / "model"


def entries_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    return found


def test_a_folder_of_version_0_1_is_read() -> None:
    info = ModelInfo.read(EARLIER)
    before, after = entries_of(info.folder), info.content()
    for name in ("encoder", "data"):  # without new entries
        after[name] = {key: after[name].get(key) for key in before[name]}
    lost = {key for key in before if before[key] != after.get(key)}
    assert lost <= {"architecture"} and before.get("architecture") == info.architecture
    assert info.labels == tuple(before["labels"]) and info.encoder.size == 32


def test_what_is_written_is_read(tmp_path: Path) -> None:
    info = ModelInfo.read(write_model(tmp_path / "a", note={"deep": [1, None]}))
    info = replace(info, grid=(3, 5), temperature=2.5, half=True)
    (tmp_path / "b").mkdir()
    info.write(tmp_path / "b")
    again = ModelInfo.read(tmp_path / "b")
    assert again == info and again.folder == tmp_path / "b"
    assert again.extra == {"note": {"deep": [1, None]}}


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


NAN = float("nan")
WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (put(2, "schema"), "schema is 2 instead of 1"),
    (without("schema"), "schema is None instead of 1"),
    (put(None, "input"), "input is None, expected an object"),
    (without("input", "crop"), "input.crop is missing"),
    (put(10**9, "input", "size"), "input.size is 1000000000, expected 8 to 2048"),
    (put(7, "input", "crop"), "input.crop is 7, expected 8 to 2048"),
    (put(True, "input", "size"), "input.size is True, expected a whole number"),
    (put(16.0, "input", "size"), "input.size is 16.0, expected a whole number"),
    (put("no", "input", "grey"), "input.grey is 'no', expected true or false"),
    (put(1, "input", "grey"), "input.grey is 1, expected true or false"),
    (put(3, "input", "sizes"), "input.sizes is unknown, expected size, crop, grey"),
    (put("anger", "labels"), "labels is 'anger', expected a list"),
    (put(["anger"], "labels"), "labels are not two or more different names"),
    (put(["anger", "anger"], "labels"), "labels are not two or more different names"),
    (put([str(number) for number in range(100_000)], "labels"), "labels are not two or more"),
    (put(["anger", 3], "labels"), "labels is 3, expected a text"),
    (put(["anger", "a\nb"], "labels"), "labels 'a\\nb' is no name"),
    (put(["anger", ""], "labels"), "labels '' is no name"),
    (put(["anger", "\ud800"], "labels"), "half of a sign"),
    (put("\ud800", "data_terms"), "half of a sign"),
    (put({"\ud800": 1}, "config"), "half of a sign"),
    (put(0, "temperature"), "temperature is 0.0, expected 0.01 to 100"),
    (put(1e-320, "temperature"), "temperature is 1e-320, expected 0.01 to 100"),
    (put(1e-400, "temperature"), "temperature is 0.0, expected 0.01 to 100"),
    (put(NAN, "temperature"), "holds NaN, which is no JSON"),
    (put(float("inf"), "temperature"), "holds Infinity, which is no JSON"),
    (put(10**400, "temperature"), "expected a number"),
    (put("1", "temperature"), "temperature is '1', expected a number"),
    (put([5], "grid"), "grid has 1 entry, expected 2"),
    (put("77", "grid"), "grid is '77', expected a list"),
    (put([0, 7], "grid"), "grid is 0, expected 1 to 2048"),
    (put([7, 1e9], "grid"), "grid is 1000000000.0, expected a whole number"),
    (put("x", "text"), "text is 'x', expected an object"),
    (put(10**9, "text", "width"), "text.width is 1000000000, expected 1 to 16384"),
    (put(["x"], "encoder", "weights"), "encoder.weights is ['x'], expected a text"),
    (put(10**9, "encoder", "size"), "encoder 'size' is 1000000000, expected at most 16384"),
    (put(1, "encoder", "depth"), "encoder.depth is unknown, expected name, weights"),
    (put({"class_path": "os"}, "options", "image"), "options 'image' is no plain value"),
    (put([9000, 9000], "options", "widths"), "options 'widths' is 18000, expected at most 16384"),
    (put([], "options"), "options is [], expected an object"),
    (put("text", "sha256"), "sha256 is 'text', expected an object"),
    (put({GRAPH: 3}, "sha256"), "sha256.model.onnx is 3, expected a text"),
    (put({GRAPH: "abc"}, "sha256"), "sha256.model.onnx is not 64 hexadecimal digits"),
    (put({"../secret": "0" * 64}, "sha256"), "sha256 names '../secret', expected model.onnx"),
    (put({"image": None}, "towers"), "towers.image is None, expected a text"),
    (put({"teacher": 3}, "companions"), "companions.teacher is 3, expected an object"),
    (put(NAN, "licence"), "holds NaN, which is no JSON"),
    (put(1.5, "licence"), "licence is 1.5, expected a text"),
    (put("free\x1b[2J", "licence"), "licence 'free\\x1b[2J' holds control characters"),
    (put("a\x1b]0;mine\x07", "name"), "name 'a\\x1b]0;mine\\x07' is no name"),
    (put("../../results", "name"), "name '../../results' leads out of its folder"),
    (put("/tmp/mine", "name"), "name '/tmp/mine' leads out of its folder"),
    (put(["ke"], "method"), "method is ['ke'], expected a text"),
    (put(-1, "seed"), "seed is -1, expected 0 to 4294967295"),
    (put(2.5, "selection", "epoch"), "selection.epoch is 2.5, expected a whole number"),
    (put(1.01, "selection", "accuracy"), "selection.accuracy is 1.01, expected 0 to 1"),
    (put("best", "selection", "mode"), "selection.mode is 'best', expected honest or paper"),
    (put({"anger": "many"}, "data", "train"), "data.train.anger is 'many', expected a whole"),
    (put(-1, "parameters", "all"), "parameters.all is -1, expected 0 to"),
    (put({"faces": 3, "agreement": 7}, "int8"), "int8.agreement is 7.0, expected 0 to 1"),
    (put({"numpy": 2}, "versions"), "versions.numpy is 2, expected a text"),
    (put({"a\nb": 3}, "data", "train"), "data.train key 'a\\nb' is no name"),
    (put({"a\nb": 3}, "towers"), "towers key 'a\\nb' is no name"),
    (put("x", "average_of"), "average_of is 'x', expected a list"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_an_entry_that_does_not_fit_is_one_line(
    change: Callable[[dict[str, Any]], None], reason: str, tmp_path: Path
) -> None:
    content = entries_of(write_model(tmp_path))
    change(content)
    (tmp_path / DESCRIPTION).write_text(json.dumps(content))
    with pytest.raises(ModelError) as refused:
        ModelInfo.read(tmp_path)
    assert reason in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / DESCRIPTION))
    assert "expected what fervor train and fervor export write" in str(refused.value)


REQUIRED = (
    *("name", "method", "labels", "input", "options", "encoder", "text", "temperature"),
    *("selection", "data", "parameters", "licence", "data_terms", "seed", "commit", "sha256"),
)


@pytest.mark.parametrize("entry", REQUIRED)
def test_a_missing_entry_is_named(entry: str, tmp_path: Path) -> None:
    content = entries_of(write_model(tmp_path))
    del content[entry]
    (tmp_path / DESCRIPTION).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f": {entry} is missing; expected"):
        ModelInfo.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', "[" * 100_000, '{"a": ' * 60 + "0" + "}" * 60, "\udcff", "{}"],
)
def test_other_json_is_one_line(tmp_path: Path, text: str) -> None:
    write_model(tmp_path)
    (tmp_path / DESCRIPTION).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="expected what fervor train") as refused:
        ModelInfo.read(tmp_path)
    assert "\n" not in str(refused.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300)
    | st.floats()
    | st.text()
    | st.sampled_from(["", "\ud800", "\x1b[2J", "../..", GRAPH, "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in nested lists and objects."""
    found = [path] if path else []
    if isinstance(content, dict | list):
        keys = content.keys() if isinstance(content, dict) else range(len(content))
        found += [place for key in keys for place in places(content[key], (*path, key))]
    return found


@st.composite
def mutated(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """One to three values replaced, removed or added."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(content)))
        holder: Any = content
        for key in path:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(JSON)
        elif isinstance(holder, dict) and draw(st.booleans()):
            holder[draw(st.text(max_size=5))] = draw(JSON)
        else:
            del holder[last]
        if not places(content):
            break
    return content


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("mutated"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("model", ["tiny", "embedded"])
def test_no_change_gives_a_traceback(data: st.DataObject, model: str, tiny: Path) -> None:
    folder = tiny if model == "tiny" else find_model(model)
    content = data.draw(mutated(ORIGINAL.setdefault(model, entries_of(folder))))
    (tiny / DESCRIPTION).write_text(json.dumps(content))
    try:
        info = ModelInfo.read(tiny)
    except ModelError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        info.validate()
        assert 0.01 <= info.temperature <= 100 and 8 <= info.input.size <= 2048


ORIGINAL: dict[str, dict[str, Any]] = {}
"""Kept here, since the test overwrites the file."""


def test_nothing_is_written_that_cannot_be_read(tmp_path: Path) -> None:
    info = ModelInfo.read(write_model(tmp_path))
    before = (tmp_path / DESCRIPTION).read_bytes()
    for changed, reason in (
        (replace(info, temperature=NAN), "temperature is nan, expected a number"),
        (replace(info, seed=-1), "seed is -1"),
        (replace(info, extra={"schema": 2}), "schema is 2"),
    ):
        with pytest.raises(ModelError, match=reason):
            changed.write()
    assert (tmp_path / DESCRIPTION).read_bytes() == before


def test_every_file_is_compared_when_it_is_opened(tmp_path: Path) -> None:
    info = ModelInfo.read(write_model(tmp_path))
    assert info.vouches(GRAPH) and info.verified(GRAPH) == tmp_path / GRAPH
    assert info.read_file(GRAPH) == (tmp_path / GRAPH).read_bytes()
    content = bytearray((tmp_path / GRAPH).read_bytes())
    content[-1] ^= 1
    (tmp_path / GRAPH).write_bytes(content)
    for opened in (info.read_file, info.verified, lambda _: info.verify()):
        with pytest.raises(ModelError, match="the file is damaged or was changed"):
            opened(GRAPH)


def test_a_file_without_a_checksum_is_not_opened(tmp_path: Path) -> None:
    info = replace(ModelInfo.read(write_model(tmp_path)), sha256={})
    assert not info.vouches(GRAPH)
    with pytest.raises(ModelError, match=r"has no sha256 of model\.onnx: export the model again"):
        info.read_file(GRAPH)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_one_line(name: str, tmp_path: Path) -> None:
    info = ModelInfo.read(write_model(tmp_path))
    (tmp_path / name).unlink(missing_ok=True)
    assert not info.vouches(name)
    with pytest.raises(ModelError, match=f"holds no {name}: ") as refused:
        info.read_file(name)
    assert "{" not in str(refused.value)


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist: expected a model folder"):
        ModelInfo.read(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        ModelInfo.read(tmp_path)
    write_model(tmp_path)
    with pytest.raises(ModelError, match="is a file: expected a model folder"):
        ModelInfo.read(tmp_path / GRAPH)


def test_names_of_shipped_models() -> None:
    assert find_model(None) == find_model("") == find_model("embedded")
    assert find_model("vlm").name == "vlm"


def test_whole_numbers_of_nested_values() -> None:
    values = {"a": [1, 2], "b": {"c": 3, "d": "x"}, "e": 4.0}
    assert list(whole_numbers(values)) == [("a", 3), ("a", 1), ("a", 2), ("b.c", 3)]
    assert LABELS
