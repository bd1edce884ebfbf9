"""Write the result tables of README.md and docs from results/**/*.json.

`--check` writes nothing and fails where a table is not what the results give.
"""

import re
import statistics
import sys
from pathlib import Path

from fervor.results import read


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
BEGIN = "<!-- {name}: written from results/ by scripts/write_results.py; do not edit by hand -->"
END = "<!-- end of {name} -->"

EMBEDDED = "ke/ferplus-mobilenet-averaged-seed0-test.json"

ROWS = {
    "classifier": "classifier/ferplus-mobilenet-evidence",
    "L_s": "ke/ferplus-mobilenet-evidence-ls",
    "L_s + L_t": "ke/ferplus-mobilenet-evidence-ls-lt",
    "L_s + L_c": "ke/ferplus-mobilenet-evidence-ls-lc",
    "L_s + L_t + L_c": "ke/ferplus-mobilenet-evidence",
}
PUBLISHED = {
    "classifier": (86.64, 59.48),
    "L_s": (87.26, 60.23),
    "L_s + L_t": (88.53, 60.60),
    "L_s + L_c": (88.82, 60.85),
    "L_s + L_t + L_c": (89.86, 61.25),
}
"""KE-FER, Table 2, ResNet-18: RAF-DB and AffectNet-8."""


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


def ablation() -> str:
    """KE-FER's losses in the evidence profile: mean and deviation over seeds."""
    lines = [
        "| loss | seeds | accuracy | mean class accuracy | gain over L_s | paper's gain, RAF-DB / "
        "AffectNet-8 |",
        "|---|---|---|---|---|---|",
    ]
    base = _accuracies(ROWS["L_s"])
    for name, stem in ROWS.items():
        values = _accuracies(stem)
        if not values:
            lines.append(f"| {name} | 0 | not yet measured | | | {_published_gain(name)} |")
            continue
        classes = [read(path)["mean_class_accuracy"] for path in _files(stem)]
        gain = statistics.mean(values) - statistics.mean(base) if base else float("nan")
        lines.append(
            f"| {name} | {len(values)} | {_spread(values)} | {_spread(classes)} | "
            f"{100 * gain:+.2f} | {_published_gain(name)} |"
        )
    return "\n".join(lines)


def _files(stem: str) -> list[Path]:
    return sorted(RESULTS.glob(f"{stem}-seed[0-9]-test.json"))


def _accuracies(stem: str) -> list[float]:
    return [read(path)["accuracy"] for path in _files(stem)]


def _spread(values: list[float]) -> str:
    """Mean and sample deviation in percent."""
    if len(values) < 2:
        return f"{100 * values[0]:.2f}"
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"


def _published_gain(name: str) -> str:
    gains = (ours - base for ours, base in zip(PUBLISHED[name], PUBLISHED["L_s"], strict=True))
    return " / ".join(f"{gain:+.2f}" for gain in gains)


def zero_shot() -> str:
    """What the image-text model answers to sentences alone, on both splits."""
    splits = {split: RESULTS / f"vlm/zero-shot-seed0-{split}.json" for split in ("valid", "test")}
    if not all(path.is_file() for path in splits.values()):
        return "Not yet measured."
    valid, test = (read(path) for path in splits.values())
    count = test["zero_shot"]["nine templates"]["count"]
    lines = [
        f"FERPlus, protocol `{test['data']['protocol']}`, {count:,} test pictures; seed "
        f"{test['run']['seed']}, commit `{test['run']['commit'][:10]}`; "
        "`results/vlm/zero-shot-seed0-test.json` (intervals, classes, confusion) and the same for "
        "valid.",
        "",
        "| asked with | valid | test | mean class accuracy, test |",
        "|---|---|---|---|",
    ]
    for name, row in test["zero_shot"].items():
        lines.append(
            f"| {name} | {valid['zero_shot'][name]['accuracy']:.2%} | {row['accuracy']:.2%} | "
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
    "README.md": {"embedded": embedded, "ablation": ablation},
    "docs/results.md": {"embedded": embedded, "ablation": ablation},
    "docs/methods/vlm.md": {"zero_shot": zero_shot},
}


def filled(text: str, name: str, table: str) -> str:
    """The text with the table between its marks."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        return text
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> int:
    """Write or check every table."""
    stale = []
    for file, tables in TABLES.items():
        path = ROOT / file
        text = new = path.read_text(encoding="utf-8")
        for name, table in tables.items():
            answer = table()
            if file.startswith("docs/"):  # the built documentation does not hold results/
                answer = re.sub(r"\[(`[^`]*`)\]\(results/[^)]*\)", r"\1", answer)
            new = filled(new, name, answer)
        if new != text:
            stale.append(file)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}; run python scripts/write_results.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
