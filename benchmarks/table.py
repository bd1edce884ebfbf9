"""The tables of docs/speed.md and benchmarks/REPORT.md, from a result file of run.py.

python benchmarks/table.py benchmarks/results/NAME.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from fervor.io import provenance


ROOT = Path(__file__).resolve().parent.parent
BEGIN = (
    "<!-- {name}: written from benchmarks/results/ by benchmarks/table.py; do not edit by hand -->"
)
END = "<!-- end of {name} -->"
BASE = "fervor"
TUNED = "fervor_fast"
"""The same installation with other settings than its defaults."""
DEFAULTS = (
    ("one photo, new process", 1),
    ("one photo, warm", 1),
    ("1000 photos, new process", 1),
    ("1000 photos, new process", 2),
    ("video, 90 frames", 1),
)
"""What and threads: the rows of the table of tools with their defaults."""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _cell(measure: dict[str, Any], name: str) -> str:
    if name in measure["seconds"]:
        seconds = measure["seconds"][name]
        text = duration(seconds["median"])
        if name == BASE:
            return f"{text} ({duration(seconds['low'])} to {duration(seconds['high'])})"
        return f"{text}, {_spread(measure['ratios'][name])}" if measure["ratios"] else text
    return "not measured" if name in measure["not_measured"] else ""


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def speed(result: dict[str, Any]) -> list[str]:
    """One row for each measure, one column for each tool."""
    names = list(result["versions"])
    head = ["", "threads", f"{BASE}: median (least to most)"]
    head += [f"{name}: median, times {BASE}'s (least to most)" for name in names if name != BASE]
    rows = [
        [one["what"], str(one["threads"]), *(_cell(one, name) for name in names)]
        for one in result["measures"]
    ]
    return _rows(head, rows)


def costs(result: dict[str, Any]) -> list[str]:
    """Size on disk and memory."""
    names = list(result["versions"])
    rows = [
        [f"installed, for {what}", *(f"{sizes[name]:,.0f} MB" for name in names)]
        for what, sizes in result["megabytes"].items()
    ]
    for one in result["measures"]:
        if one["peak_mb"]:
            memory = [
                f"{one['peak_mb'][name]:,.0f} MB" if name in one["peak_mb"] else "not measured"
                for name in names
            ]
            rows.append([f"memory, {one['what']}, {one['threads']} thread(s)", *memory])
    return _rows(["most at any time", *names], rows)


def accuracy(result: dict[str, Any]) -> list[str]:
    """Accuracy with faces that are given and that are found."""
    tools = result["accuracy"]["tools"]

    def cell(figures: dict[str, Any]) -> str:
        if "not_measured" in figures:
            return "not measured"
        text = f"{figures['accuracy']:.1%} of {figures['count']:,}"
        missing = figures["count"] - figures["found"]
        return f"{text}, {missing:,} not found" if missing else text

    rows = [
        [f"faces {how}", *(cell(figures[how]) for figures in tools.values())]
        for how in ("given", "found")
    ]
    if own := result.get("own"):
        found = own["with_a_face"]
        cells = ["not measured" if found[name] is None else f"{found[name]:,}" for name in tools]
        rows.append([f"{own['what']}: with a face", *cells])
    return _rows(["accuracy", *tools], rows)


def reasons(result: dict[str, Any]) -> list[str]:
    """Why something has no figure, each reason once."""
    found = {f"- {name}: {why}" for name, why in result["not_installed"].items()}
    for one in result["measures"]:
        found |= {f"- {one['what']}, {name}: {why}" for name, why in one["not_measured"].items()}
    lines = sorted(found)
    return ["Not measured:", "", *lines, ""] if lines else []


def defaults(result: dict[str, Any], path: Path) -> str:
    """Each tool with its own defaults: medians of seconds, memory, size and accuracy."""
    names = [name for name in result["versions"] if name != TUNED]
    measures = {(one["what"], one["threads"]): one for one in result["measures"]}
    tools = result["accuracy"]["tools"]
    rows = []
    own = result.get("own")
    warm = [(f"{own['what']}, warm", threads) for threads in (1, 2)] if own else []
    for what, threads in (*DEFAULTS, *warm):
        one = measures[what, threads]
        cells = [
            duration(one["seconds"][name]["median"]) if name in one["seconds"] else "not measured"
            for name in names
        ]
        rows.append([f"{what}, {threads} thread{'s' * (threads > 1)}", *cells])
    folder = measures["1000 photos, new process", 1]["peak_mb"]
    rows.append(["memory of the 1000, 1 thread", *(f"{folder[name]:,.0f} MB" for name in names)])
    sizes = result["megabytes"]["pictures"]
    rows.append(["installed", *(f"{sizes[name]:,.0f} MB" for name in names)])
    for how in ("given", "found"):
        figures = [tools[name][how] for name in names]
        cells = [f"{one['accuracy']:.1%} of {one['count']:,}" for one in figures]
        rows.append([f"accuracy, faces {how}", *cells])
    machine = result["machine"]
    head = (
        f"{result['date']}, commit `{result['commit'][:10]}`, {machine['processor']}, "
        f"{machine['cores']} cores; `benchmarks/results/{path.name}`."
    )
    return "\n".join([head, "", *_rows(["defaults", *names], rows)]).strip()


def markdown(result: dict[str, Any], path: Path) -> str:
    """All tables of one result."""
    machine, load = result["machine"], result["load"]
    tools = "; ".join(
        ", ".join(f"{part} {number}" for part, number in parts.items())
        for parts in result["versions"].values()
    )
    lines = [
        f"{result['date']}, commit `{result['commit'][:10] or 'unknown'}`, {machine['processor']}, "
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; load of the "
        f"machine {load['before']:.1f} before and {load['after']:.1f} after. {tools}. "
        f"Photographs: {result['photos']}. Every value: `benchmarks/results/{path.name}`.",
        "",
        *speed(result),
        *costs(result),
        f"{result['accuracy']['data']}, split {result['accuracy']['split']}, protocol "
        f"{result['accuracy']['protocol']}. Given: {result['accuracy']['how']['given']}. "
        f"Found: {result['accuracy']['how']['found']}.",
        "",
        *accuracy(result),
        *reasons(result),
    ]
    return "\n".join(lines).strip()


def pages(result: dict[str, Any], path: Path) -> dict[Path, tuple[str, str]]:
    """By page: the name of its marks, and what stands between them."""
    return {
        ROOT / "docs" / "speed.md": ("speed-defaults", defaults(result, path)),
        ROOT / "benchmarks" / "REPORT.md": ("speed", markdown(result, path)),
    }


def filled(text: str, name: str, tables: str) -> str:
    """The page's text with the tables between its marks.

    Raises:
        ValueError: the text has no marks of that name.
    """
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        raise ValueError(f"no place for the tables: expected the lines {begin} and {end}")
    before, after = text.split(begin, 1)[0], text.split(end, 1)[1]
    return f"{before}{begin}\n{tables}\n{end}{after}"


def write_pages(result: dict[str, Any], path: Path) -> None:
    """Put the tables into the pages."""
    for page, (name, tables) in pages(result, path).items():
        text = page.read_text(encoding="utf-8")
        provenance.write_text(page, filled(text, name, tables))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write_pages(json.loads(source.read_text(encoding="utf-8")), source)
