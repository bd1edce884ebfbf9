"""The example notebook runs from its first cell to its last, and shows what it promises."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fervor import Prediction


NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def run(cells: list[str]) -> list[Any]:
    """Run code cells in one namespace; what each shows: the value of its last expression."""
    namespace: dict[str, Any] = {}
    shown = []
    for number, code in enumerate(cells):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = compile(ast.Expression(last.value), f"cell {number}", "eval")
            shown.append(eval(value, namespace))
        else:
            shown.append(None)
    return shown


def test_quickstart(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas of the [dev] extra")
    pytest.importorskip("av", reason="needs fervor[video]")
    monkeypatch.chdir(NOTEBOOK.parent)
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code), "outputs are not kept in git"
    shown = run(["".join(cell["source"]) for cell in code])
    face, table, picture, video, timeline = shown
    assert isinstance(face, Prediction)
    assert "happiness" in face._repr_html_()
    assert isinstance(table, pandas.DataFrame)
    assert table["label"].tolist() == ["happiness"]
    assert isinstance(picture, Image.Image)
    assert video["frame"].tolist() == [0, 5, 10, 15, 20]
    assert video["time_s"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert set(video["track"]) == {0}
    assert video["x"].is_monotonic_decreasing
    assert isinstance(timeline, Image.Image)
