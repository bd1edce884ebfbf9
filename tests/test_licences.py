"""A forbidden, unknown or new licence is found; the bill of materials has CycloneDX's shape."""

import importlib
import json
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest

from fervor.artifacts.packaged import shipped


ROOT = Path(__file__).parents[1]

pytest.importorskip("packaging", reason="needs the [dev] extra")


@pytest.fixture
def licences(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "tools" / "release")
    return importlib.import_module("licences")


@pytest.fixture
def materials(licences: Any) -> Any:
    return importlib.import_module("bill_of_materials")


def write(folder: Path, name: str, *lines: str, files: tuple[str, ...] = ()) -> None:
    """An installed distribution with these lines in its metadata."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0"]
    (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def installed(folder: Path) -> list[Distribution]:
    return list(distributions(path=[str(folder)]))


def project(*lines: str, **extras: list[str]) -> dict[str, Any]:
    return {"dependencies": list(lines), "optional-dependencies": extras}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: MIT OR GPL-3.0-only", "License: GPL"], "MIT OR GPL-3.0-only"),
        (["License: Apache 2.0"], "Apache-2.0"),
        (["License: MPL-2.0 AND MIT"], "MPL-2.0 AND MIT"),
        (["License: BSD 3-Clause License", "Classifier: License :: OSI Approved"], "BSD-3-Clause"),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], "MIT"),
        (["License: Copyright (c) 2001", "        Enthought, Inc."], "Copyright (c) 2001"),
        (["Classifier: License :: OSI Approved :: BSD License"], "BSD"),
        (["Classifier: License :: MIT License", "Classifier: License :: GPLv2"], "GPLv2 AND MIT"),
        (["License: CC-BY-NC-4.0", "Classifier: License :: MIT License"], "CC-BY-NC-4.0"),
        (["License: MIT-Nonmilitary"], "MIT-Nonmilitary"),
        (["License: Apache-2.0 AND CC-BY-NC-4.0"], "Apache-2.0 AND CC-BY-NC-4.0"),
        (["License: MIT License, for non-commercial use"], "MIT License, for non-commercial use"),
        ([], ""),
    ],
)
def test_what_metadata_say(licences: Any, tmp_path: Path, lines: list[str], expected: str) -> None:
    write(tmp_path, "thing", *lines)
    (found,) = installed(tmp_path)
    assert licences.licence(found) == expected


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT AND ISC", True),
        ("MIT AND (GPL-3.0-only OR ISC)", False),
        ("(MIT OR ISC) AND Apache-2.0 WITH LLVM-exception", True),
        ("AGPL-3.0-or-later", False),
        ("CC-BY-NC-4.0", False),
        ("", False),
    ],
)
def test_what_is_allowed(licences: Any, expression: str, fine: bool) -> None:
    assert licences.allowed(expression) is fine


def test_extras_and_markers_are_followed(licences: Any, tmp_path: Path) -> None:
    more = "Provides-Extra: more"
    write(
        tmp_path,
        "top",
        "License: MIT",
        "Requires-Dist: under[more]",
        'Requires-Dist: no; extra == "x"',
    )
    write(tmp_path, "under", "License: ISC", more, 'Requires-Dist: deep>=1; extra == "more"')
    write(tmp_path, "deep", "License: MIT", 'Requires-Dist: never; python_version < "3"')
    write(tmp_path, "side", "License: MIT", "Requires-Dist: Top")
    write(tmp_path, "extra", "License: MIT")
    extras = {"all": ["fervor[video]", "extra"], "video": ["side"], "more": ["fervor[all,more]"]}
    needs = licences.closure(project("top", **extras, dev=["missing"]), installed(tmp_path))
    assert list(needs) == ["deep", "extra", "side", "top", "under"]
    assert needs["deep"].extras == {"all", "base", "more", "video"}
    assert needs["side"].extras == {"all", "more", "video"}
    assert needs["extra"].extras == {"all", "more"}
    assert (needs["under"].direct, needs["side"].direct) == (False, True)
    assert needs["under"].needs == {"deep"}
    assert licences.faults(needs) == []


def test_a_missing_distribution_is_one_line(licences: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^absent is not installed: pip install -c"):
        licences.closure(project("absent"), installed(tmp_path))


def test_forbidden_and_unknown_licences_are_faults(licences: Any, tmp_path: Path) -> None:
    write(tmp_path, "top", "License: MIT", "Requires-Dist: viral", "Requires-Dist: silent")
    write(tmp_path, "viral", "License-Expression: AGPL-3.0-only")
    write(tmp_path, "silent", files=())
    video = ("player.libs/libx264-d6533a8d.so.165", "player.libs/libfree.so", "notes/libx265.md")
    write(tmp_path, "player", "License: MIT", files=video)
    write(tmp_path, "numpy", "License-Expression: BSD-3-Clause", files=("libquadmath.so.0",))
    needs = licences.closure(project("top", "player", "numpy"), installed(tmp_path))
    assert licences.faults(needs) == [
        "player 1.0: bundles x264 (GPL-2.0-or-later), without a reason",
        "silent 1.0: states no licence",
        "viral 1.0: AGPL-3.0-only is not in ALLOWED",
    ]


def test_an_old_page_is_noticed(licences: Any) -> None:
    now = "| base | MIT: one |\n| heic | ISC: two |\n| `net.onnx` | MIT | faces |\n"
    tested = "one==1.0\ntwo==2.0\nelsewhere==3.0\n"
    more = "| base | MIT: elsewhere |\n"  # needed under another system
    assert licences.stale(now + more, now, tested) == []
    gone = "| base | ISC: another; MIT: dropped |\n| `old.onnx` | MIT | faces |\n"
    assert licences.stale(now.replace("ISC", "MIT") + gone, now, tested) == [
        "`old.onnx`: on the page, and nothing needs it",
        "another: on the page, and nothing needs it",
        "dropped: on the page, and nothing needs it",
        "two: ISC: not on the page",
    ]
    stale = licences.stale(now.replace("faces", "votes"), now, tested)
    assert len(stale) == 1 and stale[0].endswith("faces: not on the page")


def test_every_shipped_file_has_its_row_or_its_folder_s(licences: Any) -> None:
    rows = {name: (licence, terms) for name, licence, terms in licences.weight_rows()}
    for weight in shipped():
        folder = weight.name.rpartition("/")[0]
        assert rows.get(weight.name, rows.get(f"{folder}/")) == (weight.licence, weight.data_terms)
    assert "embedded/" in rows


def test_the_bill_of_materials(
    materials: Any, licences: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "top", "License: BSD", "Requires-Dist: under")
    write(tmp_path, "under", "License-Expression: (MIT OR ISC) AND Zlib", files=("libx265.so.1",))
    needs = licences.closure(project(video=["top"]), installed(tmp_path))
    monkeypatch.setattr(materials, "needed", lambda: needs)
    monkeypatch.setattr(sys, "argv", ["bill_of_materials.py", str(tmp_path / "bom.json")])
    materials.main()
    first = (tmp_path / "bom.json").read_bytes()
    materials.main()
    assert (tmp_path / "bom.json").read_bytes() == first
    bom = json.loads(first)
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    top, under, *models = bom["components"]
    assert top["licenses"] == [{"license": {"name": "BSD"}}]
    assert under["licenses"] == [{"expression": "(MIT OR ISC) AND Zlib"}]
    assert under["purl"] == "pkg:pypi/under@1.0"
    assert [part["name"] for part in under["components"]] == ["x265"]
    assert {model["name"]: model["hashes"] for model in models} == {
        weight.name: [{"alg": "SHA-256", "content": weight.sha256}] for weight in shipped()
    }
    assert all(model["licenses"] and model["properties"][0]["value"] for model in models)
    references = [component["bom-ref"] for component in bom["components"]]
    assert len(set(references)) == len(references)
    edges = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    assert edges.keys() <= {*references, bom["metadata"]["component"]["bom-ref"]}
    assert edges["pkg:pypi/top@1.0"] == ["pkg:pypi/under@1.0"]
    assert "pkg:pypi/under@1.0" not in edges[bom["metadata"]["component"]["bom-ref"]]
