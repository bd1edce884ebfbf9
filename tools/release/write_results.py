"""Write the result tables of README.md, docs and benchmarks/REPORT.md from results/**/*.json.

`--check` writes nothing and fails where a table is not what the results give.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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

EMBEDDED = "ke/ferplus-mobilenet-student-seed0-test-68e1fb1701.json"
PHOTOGRAPHS = "ke/ferplus-mobilenet-student-seed0-photographs-crop64-f7a8601fdf.json"
"""Those of the choosing set, which are no part of the repository."""


def embedded() -> str:
    """The shipped model's figures."""
    path = RESULTS / EMBEDDED
    if not path.is_file():
        return "Not yet measured."
    result = read(path)
    low, high = result["accuracy_interval"]
    data, photographs = result["data"], read(RESULTS / PHOTOGRAPHS)
    calibration = {"natural": f"{result['calibration_error']:.2%}", "balanced": ""}
    interval = {"natural": f"{low:.2%} to {high:.2%}", "balanced": ""}
    lines = [
        f"FERPlus, protocol `{data['protocol']}`, split {data['split']}, "
        f"{result['count']:,} pictures; [`results/{EMBEDDED}`](results/{EMBEDDED}); and "
        f"{photographs['count']} photographs of another source (the repository "
        "muxspace/facial_expressions), which chose the crop of found faces.",
        "",
        "| operating point | accuracy | 95 % interval | mean class accuracy | macro F1 | "
        "calibration error | photographs: balanced accuracy | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point, figures in result["operating_points"].items():
        there = photographs[point]
        lines.append(
            f"| {point} | {figures['accuracy']:.2%} | {interval[point]} | "
            f"{figures['mean_class_accuracy']:.2%} | {figures['macro_f1']:.2%} | "
            f"{calibration[point]} | {there['balanced_accuracy']:.1%} | "
            f"{there['calibration_error']:.1%} |"
        )
    return "\n".join(lines)


def embedded_by_class() -> str:
    """The shipped model's figures, overall and for each class."""
    path = RESULTS / EMBEDDED
    if not path.is_file():
        return "Not yet measured."
    result = read(path)
    lines = [
        embedded(),
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
    return [read(path) for path in sorted((RESULTS / "robustness").rglob("*-test*.json"))]


def robustness() -> str:
    """Accuracy under each group of corruptions, of each model that was measured."""
    results = corrupted()
    if not results:
        return "Not yet measured."
    data, pictures = results[0]["data"], results[0]["pictures"]
    lines = [
        f"FERPlus, protocol `{data['protocol']}`, split test of {pictures['of']:,}, seed "
        f"{pictures['seed']}; means over a group's corruptions and five severities.",
        "",
        "| model | pictures | clean | "
        + " | ".join(results[0]["groups"])
        + " | all 16 | mean corruption error |",
        "|---" * (len(results[0]["groups"]) + 5) + "|",
    ]
    for result in results:
        other = result.get("baseline")
        error = f"{other['mean_corruption_error']:.1%} of {other['model']}'s" if other else ""
        groups = " | ".join(f"{accuracy:.1%}" for accuracy in result["groups"].values())
        lines.append(
            f"| `{result['model']}` | {result['count']:,} | {result['clean']['accuracy']:.1%} | "
            f"{groups} | "
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


FROZEN = RESULTS / "ke/frozen-rows.json"
EXPLORED = RESULTS / "ke/frozen-explored.json"
FROZEN_FIGURES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "neutral_recall": "neutral recall",
    "accuracy_even_prior": "accuracy, even prior",
    "mean_class_accuracy_even_prior": "mean class, even prior",
}


def _over_seeds(rows: Sequence[Mapping[str, Any]], figure: str) -> str:
    """Mean and, of several seeds, standard deviation, in percent."""
    values = [100 * row[figure] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _pulls(rows: Sequence[Mapping[str, Any]]) -> str:
    """What L_t and L_c pull together, in percent of L_s's pull; means over the seeds."""
    pulls = [row["activity"]["pull"] for row in rows]
    return f"{statistics.mean(100 * (one['L_t'] + one['L_c']) / one['L_s'] for one in pulls):.1f} %"


def _moved(rows: Sequence[Mapping[str, Any]], first: str, less: str = "") -> str:
    """A cosine (or a difference of two) before and after, mean over the seeds."""

    def value(figures: Mapping[str, float]) -> float:
        return figures[first] - (figures[less] if less else 0)

    start, end = (
        statistics.mean(value(row["activity"][when]) for row in rows) for when in ("start", "end")
    )
    return f"{start:+.2f} to {end:+.2f}"


def _inactive(parts: Iterable[Sequence[str]]) -> str:
    """Parts that did nothing in any of the runs, whose notes these are."""
    return ", ".join(sorted({part.split(" (")[0] for idle in parts for part in idle})) or "none"


def _grouped(
    rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]
) -> dict[Any, list[Mapping[str, Any]]]:
    """Rows by what they share, in their order."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def frozen_ke() -> str:
    """KE-FER's losses on frozen features: rows, tests, and what the parts did."""
    if not FROZEN.is_file():
        return "Not yet measured."
    result = read(FROZEN)
    groups = _grouped(
        result["rows"], lambda row: (row["setting"]["size"], row["setting"]["weight"])
    )
    count = result["count"]
    lines = [
        f"FERPlus, protocol `{result['data']['protocol']}`, split test, {count:,} images, commit "
        f"`{result['commit'][:10]}`; `results/ke/frozen-rows.json`. Mean and deviation in percent.",
        "",
        "| trained on | losses | temperature | seeds | "
        + " | ".join(FROZEN_FIGURES.values())
        + " |",
        "|---" * (4 + len(FROZEN_FIGURES)) + "|",
    ]
    for (size, weight), rows in groups.items():
        losses = f"L_s + {weight} (L_t + L_c)" if weight else "L_s"
        cells = " | ".join(_over_seeds(rows, figure) for figure in FROZEN_FIGURES)
        temperature = rows[0]["setting"]["temperature"]
        lines.append(f"| {size} | {losses} | {temperature} | {len(rows)} | {cells} |")
    lines += [
        "",
        "| trained on | gain of L_t + L_c in | points | 95 % | p | corrected |",
        "|---|---|---|---|---|---|",
    ]
    for one in result["tests"]:
        low, high = (100 * bound for bound in one["interval"])
        figure = FROZEN_FIGURES[one["figure"]] + (" (**primary**)" if one["primary"] else "")
        corrected = "" if one["primary"] else f"{one['p_value_holm']:.3f}"
        lines.append(
            f"| {one['size']} | {figure} | {100 * one['gain']:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{one['p_value']:.3f} | {corrected} |"
        )
    lines += [
        "",
        "| trained on | cos(f - G(f), t - t_neutral) | cos(f, t) - cos(G(f), t) | "
        "cos(G(f), t_neutral) | pull of L_t + L_c at the end, of L_s's | inactive |",
        "|---|---|---|---|---|---|",
    ]
    for (size, weight), rows in groups.items():
        if weight:
            idle = _inactive(row["activity"]["inactive"] for row in rows)
            lines.append(
                f"| {size} | {_moved(rows, 'change')} | {_moved(rows, 'own', 'calm_own')} | "
                f"{_moved(rows, 'calm_neutral')} | {_pulls(rows)} | {idle} |"
            )
    return "\n".join(lines)


def explored_ke() -> str:
    """Texts, centring and forms of L_c at 4,000 images, on valid."""
    if not EXPLORED.is_file():
        return "Not yet measured."
    result = read(EXPLORED)
    groups = _grouped(result["rows"], lambda row: row["name"])
    lines = [
        f"Split valid, {result['rows'][0]['count']:,} images, seed "
        f"{', '.join(map(str, result['run']['seed']))}; `results/ke/frozen-explored.json`.",
        "",
        "| 4,000 images, complete loss but for | "
        + " | ".join(FROZEN_FIGURES.values())
        + " | pull of L_t + L_c, of L_s's | inactive |",
        "|---" * (3 + len(FROZEN_FIGURES)) + "|",
    ]
    for name, rows in groups.items():
        cells = " | ".join(_over_seeds(rows, figure) for figure in FROZEN_FIGURES)
        idle = _inactive(row["activity"]["inactive"] for row in rows)
        lines.append(f"| {name} | {cells} | {_pulls(rows)} | {idle} |")
    return "\n".join(lines)


FEWSHOT = RESULTS / "mpa/fewshot-rows.json"
FEWSHOT_DATA = {
    "16": "16 pictures a class, 8 classes",
    "4": "4 pictures a class, 8 classes",
    "base": "base-to-new: the 5 classes of the training",
    "new": "base-to-new: surprise, sadness and anger, never trained",
    "harmonic mean": "base-to-new: harmonic mean of both",
}


def fewshot_mpa() -> str:
    """MPA-FER complete and with soft prompts alone: rows, tests, and what the parts did."""
    if not FEWSHOT.is_file():
        return "Not yet measured."
    result = read(FEWSHOT)
    groups = _grouped(result["rows"], lambda row: row["row"])
    chosen = result["chosen"]
    lines = [
        f"FERPlus, protocol `{result['data']['protocol']}`, split test, {result['count']:,} images "
        f"where 8 classes are, commit `{result['commit'][:10]}`; visual learning rate "
        f"{chosen['visual_learning_rate']}, alignment by {chosen['alignment_reduction']}; "
        "`results/mpa/fewshot-rows.json`. Mean and deviation over seeds in percent.",
        "",
        "| data | row | seeds | images | accuracy | mean class accuracy | neutral recall | "
        "cosine of prompted and unprompted | inactive |",
        "|---" * 9 + "|",
    ]
    for name, rows in groups.items():
        row, _, data = name.rpartition("-")
        told = "soft prompts" if row.endswith("-coop") else "complete"
        neutral = _over_seeds(rows, "neutral_recall") if rows[0]["neutral_recall"] else ""
        cosine = statistics.mean(one["moved"]["prompted_unprompted"] for one in rows)
        idle = _inactive(row["inactive"] for row in rows)
        lines.append(
            f"| {FEWSHOT_DATA[data]} | {told} | {len(rows)} | {rows[0]['count']:,} | "
            f"{_over_seeds(rows, 'accuracy')} | {_over_seeds(rows, 'mean_class_accuracy')} | "
            f"{neutral} | {cosine:.3f} | {idle} |"
        )
    return "\n".join([*lines, *_gains(result["tests"], "complete", FEWSHOT_DATA)])


GUIDED = RESULTS / "lacovl/guided-rows.json"
GUIDED_DATA = {"clean": "clean test", "occluded": "test under the three occlusions"}


def guided_lacovl() -> str:
    """LaCoVL-FER with and without landmarks: rows, tests, and what the parts did."""
    if not GUIDED.is_file():
        return "Not yet measured."
    result = read(GUIDED)
    kinds, groups = result["occlusions"]["names"], _grouped(result["rows"], lambda row: row["row"])
    best = max(result["choice"], key=lambda one: one["accuracy"])
    rates = ", ".join(
        f"{one['learning_rate']:g} ({one['accuracy']:.2%})" for one in result["choice"]
    )
    if not groups:
        return f"Learning rates and accuracy on valid: {rates}. Rows are not yet measured."
    lines = [
        f"FERPlus, protocol `{result['data']['protocol']}`, split test, {result['count']:,} "
        f"images; commit `{result['rows'][0]['commit'][:10]}`, learning rate "
        f"{best['learning_rate']:g}, of {rates} on valid; occlusions of severity "
        f"{result['occlusions']['severity']}; `results/lacovl/guided-rows.json`. Mean and "
        "deviation over seeds in percent.",
        "",
        "| queries from | seeds | accuracy | mean class accuracy | neutral recall | occluded | "
        + " | ".join(kinds)
        + " | others' landmarks move tokens by | gates, from fine to coarse | inactive |",
        "|---" * (9 + len(kinds)) + "|",
    ]
    for name, rows in groups.items():
        flat = [{**row, **row["occlusions"]} for row in rows]
        figures = ("accuracy", "mean_class_accuracy", "neutral_recall", "occluded_accuracy", *kinds)
        cells = " | ".join(_over_seeds(flat, figure) for figure in figures)
        queries = "the image" if name.endswith("-unguided") else "landmarks"
        parts = [row["parts"] for row in rows]
        moved = "" if queries == "the image" else f"{_mean_of(parts, 'landmarks'):.3f}"
        gates = ", ".join(
            f"{_mean_of(parts, f'gate_{scale}'):.2f}" for scale in ("fine", "middle", "coarse")
        )
        idle = _inactive(row["inactive"] for row in rows)
        lines.append(f"| {queries} | {len(rows)} | {cells} | {moved} | {gates} | {idle} |")
    gains = _gains(result["tests"], "landmarks", GUIDED_DATA) if result["tests"] else []
    return "\n".join([*lines, *gains])


def _mean_of(parts: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.mean(float(part[name]) for part in parts)


def _gains(tests: Sequence[dict[str, Any]], row: str, data: dict[str, str]) -> list[str]:
    """How much more often one row is right than the other, on each data."""
    lines = ["", f"| gain of {row}, on | points | 95 % | p | corrected |", "|---|---|---|---|---|"]
    for one in tests:
        low, high = (100 * bound for bound in one["interval"])
        corrected = "" if one["primary"] else f"{one['p_value_holm']:.3f}"
        lines.append(
            f"| {data[one['of']]}{' (**primary**)' if one['primary'] else ''} | "
            f"{100 * one['gain']:+.2f} | {low:+.2f} to {high:+.2f} | {one['p_value']:.3f} | "
            f"{corrected} |"
        )
    return lines


TABLES = {
    "README.md": {"embedded": embedded},
    "docs/results.md": {"embedded": embedded_by_class},
    "docs/decisions/evidence.md": {
        "ke-frozen": frozen_ke,
        "ke-frozen-explored": explored_ke,
        "mpa-fewshot": fewshot_mpa,
        "lacovl-guided": guided_lacovl,
    },
    "docs/robustness.md": {"robustness": robustness},
    "benchmarks/REPORT.md": {
        "corruptions": corruptions,
        "ke-table2": published("ke-table2", "mobilenet"),
        "ke-table2-repeated": published("ke-table2", "mobilenet", RESULTS / "repeated"),
        "lacovl-ablation": published("lacovl-ablation", "embedded"),
        "mpa-ablation": published("mpa-ablation", "embedded"),
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
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
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale and check:
        print(f"stale: {', '.join(stale)}; run python tools/release/write_results.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
