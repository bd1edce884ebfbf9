"""The tables of docs/speed.md, from a result file of run.py.

python benchmarks/table.py benchmarks/results/NAME.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from fervor.io import provenance


PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"
BEGIN = (
    "<!-- speed: written from benchmarks/results/ by benchmarks/table.py; do not edit by hand -->"
)
END = "<!-- end of speed -->"
BASE = "fervor"


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
    return _rows(["accuracy", *tools], rows)


def reasons(result: dict[str, Any]) -> list[str]:
    """Why something has no figure, each reason once."""
    found = {f"- {name}: {why}" for name, why in result["not_installed"].items()}
    for one in result["measures"]:
        found |= {f"- {one['what']}, {name}: {why}" for name, why in one["not_measured"].items()}
    lines = sorted(found)
    return ["Not measured:", "", *lines, ""] if lines else []


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


def write_page(result: dict[str, Any], path: Path, page: Path) -> None:
    """Put the tables between the page's marks.

    Raises:
        SystemExit: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"{page} has no place for the tables: expected the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN, 1)[0], text.split(END, 1)[1]
    provenance.write_text(page, f"{before}{BEGIN}\n{markdown(result, path)}\n{END}{after}")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write_page(json.loads(source.read_text(encoding="utf-8")), source, PAGE)
