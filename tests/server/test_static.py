"""What the page says is what the documentation says, and no file asks another server."""

import importlib.util
import re
from pathlib import Path

import pytest

import fervor


ROOT = Path(__file__).parents[2]
STATIC = Path(fervor.__file__).parent / "server" / "static"


def test_the_text_on_responsible_use_is_that_of_the_documentation() -> None:
    pytest.importorskip("markdown", reason="needs the [dev] extra")
    script = ROOT / "tools" / "release" / "write_responsible_use.py"
    spec = importlib.util.spec_from_file_location("write_responsible_use", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (STATIC / "responsible-use.html").read_text(encoding="utf-8")
    assert text == module.page(), f"run python {script.relative_to(ROOT)}"


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    addresses = set(re.findall(r"https?://[^\s\"'`)]*", text)) - {"http://localhost,"}
    assert not addresses
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text)
