"""Write the result tables of README.md, docs and benchmarks/REPORT.md from results/**/*.json.

`--check` writes nothing and fails where a table is not what the results give.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fervor.config import Data
from fervor.evaluation.results import read
from fervor.experiments.paper_tables import table
from fervor.experiments.reproduce import Setting, markdown


ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
BEGIN = (
    "<!-- {name}: written from results/ by tools/release/write_results.py; do not edit by hand -->"
)
END = "<!-- end of {name} -->"

EMBEDDED = "ke/ferplus-mobilenet-averaged-seed0-test.json"


def embedded() -> str:
    """The shipped model's figures, overall and per class."""
    path = RESULTS / EMBEDDED
    if not path.is_file():
        return "Not yet measured."
    result = read(path)
    low, high = result["accuracy_interval"]
    data = result["data"]
    lines = [
        f"FERPlus, protocol `{data['protocol']}`, split {data['split']}, "
        f"{result['count']:,} pictures; [`results/{EMBEDDED}`](results/{EMBEDDED}).",
        "",
        "| accuracy | 95 % interval | mean class accuracy | macro F1 | calibration error |",
        "|---|---|---|---|---|",
        f"| {result['accuracy']:.2%} | {low:.2%} to {high:.2%} | "
        f"{result['mean_class_accuracy']:.2%} | {result['macro_f1']:.2%} | "
        f"{result['calibration_error']:.2%} |",
        "",
        "| class | pictures | precision | recall | F1 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['count']:,} | {row['precision']:.1%} | {row['recall']:.1%} | "
        f"{row['f1']:.1%} |"
        for name, row in result["classes"].items()
    ]
    return "\n".join(lines)


def published(name: str, encoder: str, results: Path = RESULTS) -> Callable[[], str]:
    """A paper's table in the evidence profile on FERPlus: mean and deviation over three seeds."""
    setting = Setting("evidence", encoder, Data(name="ferplus"), range(3), results)
    return lambda: markdown(table(name), setting)


def corrupted() -> list[dict[str, Any]]:
    """The results of each model that was measured under corruptions."""
    return [read(path) for path in sorted((RESULTS / "robustness").rglob("*-test.json"))]


def robustness() -> str:
    """Accuracy under each group of corruptions, of each model that was measured."""
    results = corrupted()
    if not results:
        return "Not yet measured."
    data, pictures = results[0]["data"], results[0]["pictures"]
    lines = [
        f"FERPlus, protocol `{data['protocol']}`, split test, {results[0]['count']} of "
        f"{pictures['of']:,} pictures, seed {pictures['seed']}; means over a group's corruptions "
        "and five severities.",
        "",
        "| model | clean | "
        + " | ".join(results[0]["groups"])
        + " | all 16 | mean corruption error |",
        "|---" * (len(results[0]["groups"]) + 4) + "|",
    ]
    for result in results:
        other = result.get("baseline")
        error = f"{other['mean_corruption_error']:.1%} of {other['model']}'s" if other else ""
        groups = " | ".join(f"{accuracy:.1%}" for accuracy in result["groups"].values())
        lines.append(
            f"| `{result['model']}` | {result['clean']['accuracy']:.1%} | {groups} | "
            f"{result['mean_accuracy']:.1%} | {error} |"
        )
    return "\n".join(lines)


def corruptions() -> str:
    """Accuracy under each corruption at each severity, of each model that was measured."""
    results = corrupted()
    if not results:
        return "Not yet measured."
    lines = ["| corruption | " + " | ".join(f"`{one['model']}`" for one in results) + " |"]
    lines.append("|---" * (1 + len(results)) + "|")
    for kind in results[0]["corruptions"]:
        rows = [result["corruptions"][kind]["accuracy"] for result in results]
        cells = [" ".join(f"{100 * accuracy:.0f}" for accuracy in row) for row in rows]
        lines.append(f"| {kind.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweeps(method: str) -> Callable[[], str]:
    """Settings of a method's evidence recipe, one changed at a time, on validation."""

    def written() -> str:
        found = [read(path) for path in sorted((RESULTS / "sweeps").glob(f"{method}-*.json"))]
        if not found:
            return "Not yet measured."
        data, run = found[0]["data"], found[0]["run"]
        lines = [
            f"`{found[0]['model']}`, seed {run['seed']}, FERPlus, protocol `{data['protocol']}`, "
            f"split {data['split']}, {found[0]['count']:,} pictures; "
            f"`results/sweeps/{method}-*.json`.",
            "",
            "| setting | accuracy | mean class accuracy | negative log likelihood |",
            "|---|---|---|---|",
        ]
        for result in found:
            rows = [row for row in result["trials"] if "selection" in row]
            for row in sorted(rows, key=lambda row: str(row["settings"])):
                setting = ", ".join(
                    f"`{name.removeprefix('options.')}: {value}`"
                    for name, value in row["settings"].items()
                )
                figures = row["selection"]
                lines.append(
                    f"| {setting} | {figures['accuracy']:.2%} | "
                    f"{figures['mean_class_accuracy']:.2%} | "
                    f"{figures['negative_log_likelihood']:.3f} |"
                )
        return "\n".join(lines)

    return written


def words_not_in_captions() -> str:
    """What the image-text model answers to sentences alone, on both splits."""
    splits = {
        split: RESULTS / f"vlm/words-not-in-captions-seed0-{split}.json"
        for split in ("valid", "test")
    }
    if not all(path.is_file() for path in splits.values()):
        return "Not yet measured."
    valid, test = (read(path) for path in splits.values())
    count = test["sentences"]["nine templates"]["count"]
    lines = [
        f"FERPlus, protocol `{test['data']['protocol']}`, {count:,} test pictures; seed "
        f"{test['run']['seed']}, commit `{test['run']['commit'][:10]}`; "
        "`results/vlm/words-not-in-captions-seed0-test.json` (intervals, classes, confusion) and "
        "the same for valid.",
        "",
        "| asked with | valid | test | mean class accuracy, test |",
        "|---|---|---|---|",
    ]
    for name, row in test["sentences"].items():
        lines.append(
            f"| {name} | {valid['sentences'][name]['accuracy']:.2%} | {row['accuracy']:.2%} | "
            f"{row['mean_class_accuracy']:.2%} |"
        )
    pairs = test["two_expressions"]
    lines += [
        "",
        f"Two expressions at once ({pairs['count']} test pictures under `{pairs['protocol']}` "
        f"whose two highest shares are at least 30 % and at most 60 %; {pairs['pairs']} pairs): "
        f"the sentence on the right pair is nearest for {pairs['right_pair_first']:.1%} and among "
        f"the three nearest for {pairs['right_pair_in_three']:.1%}; the two nearest single "
        f"expressions are the right ones for {pairs['two_nearest_expressions']:.1%}.",
        "",
        "| word | nearest expressions and their cosines |",
        "|---|---|",
    ]
    for word, near in test["other_words"].items():
        lines.append(f"| {word} | {', '.join(f'{name} {near[name]:.2f}' for name in near)} |")
    return "\n".join(lines)


TABLES = {
    "README.md": {"embedded": embedded},
    "docs/results.md": {
        "embedded": embedded,
        "ke-table2": published("ke-table2", "mobilenet"),
        "mpa-ablation": published("mpa-ablation", "embedded"),
        "lacovl-ablation": published("lacovl-ablation", "embedded"),
    },
    "docs/reproduce.md": {
        "ke-table2-repeated": published("ke-table2", "mobilenet", RESULTS / "repeated"),
    },
    "docs/robustness.md": {"robustness": robustness},
    "benchmarks/REPORT.md": {
        "corruptions": corruptions,
        "lacovl-sweeps": sweeps("lacovl"),
        "mpa-sweeps": sweeps("mpa"),
        "words_not_in_captions": words_not_in_captions,
    },
}


def filled(text: str, name: str, table: str) -> str:
    """The text with the table between its marks."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        raise SystemExit(f"no place for the table: expected the lines {begin} and {end}")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> int:
    """Write or check every table."""
    stale = []
    for file, tables in TABLES.items():
        path = ROOT / file
        text = new = path.read_text(encoding="utf-8")
        for name, written in tables.items():
            answer = written()
            if file != "README.md":  # the built documentation does not hold results/
                answer = re.sub(r"\[(`[^`]*`)\]\(results/[^)]*\)", r"\1", answer)
            new = filled(new, name, answer)
        if new != text:
            stale.append(file)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}; run python tools/release/write_results.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
