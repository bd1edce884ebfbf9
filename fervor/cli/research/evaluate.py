"""The command `fervor evaluate`."""

from typing import Any

from fervor.cli.research import check_reading
from fervor.cli.using import listed
from fervor.config import Data
from fervor.errors import DONE, counted
from fervor.plugins import missing_extra


def evaluate(
    *,
    model: str,
    data: Data,
    given: frozenset[str] = frozenset(),
    split: str = "test",
    labels: str = "",
    output: str = "results",
    exclude_duplicates: bool = False,
    report: bool = False,
    umap: bool = False,
    compare: str = "",
    slices: str = "",
) -> int:
    """Measure a model on a data set and write its result file.

    Args:
        model: a run folder or model folder; embedded for the one that fervor ships.
        data: which pictures.
        given: names of the options on the command line.
        split: train, valid or test.
        labels: words to choose of in place of the model's classes, separated by commas, or by
            semicolons where one holds a comma; for models that compare with texts.
        output: folder of result files.
        exclude_duplicates: leave out pictures that also stand in train, pixel by pixel.
        report: write figures, tables and a page into a folder beside the result file.
        umap: lay the features out by UMAP too, in the report; takes a minute more.
        compare: another model folder that answers the same pictures (McNemar's test).
        slices: attributes of the pictures, separated by commas, by which accuracy is divided.
    """
    check_reading(given)
    with missing_extra("train"):
        from fervor.evaluation.evaluate import evaluate as measure
    path, result = measure(
        model,
        data,
        split=split,
        labels=listed(labels) or (),
        output=output,
        exclude_duplicates=exclude_duplicates,
        report=report,
        umap=umap,
        compare=compare,
        slices=[name.strip() for name in slices.split(",")] if slices else [],
    )
    low, high = result["accuracy_interval"]
    persons = f" of {counted(result['persons'], 'person')}" if result["persons"] else ""
    count = counted(result["count"], "picture")
    lines = [
        ("accuracy", f"{result['accuracy']:.2%} ({low:.2%} to {high:.2%}, 95 %)"),
        ("", f"{result['correct']} of {count}{persons}"),
        ("mean class accuracy", f"{result['mean_class_accuracy']:.2%}"),
        ("macro F1", f"{result['macro_f1']:.2%}"),
        ("calibration error", f"{result['calibration_error']:.2%}"),
        *_left_out(result),
        *_compared(result),
        ("written to", str(path)),
    ]
    if report:
        lines.append(("report", f"{path.with_suffix('')}/report.html"))
    width = max(len(title) for title, _ in lines) + 2
    for title, text in lines:
        print(f"{title:{width}}{text}")
    return DONE


def _compared(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation says of another model and of groups of pictures, for people."""
    lines = []
    if (other := result.get("comparison")) is not None:
        lines += [
            ("compared with", f"{other['model']}, accuracy {other['accuracy']:.2%}"),
            (
                "right alone",
                f"{other['first_only']} against {counted(other['second_only'], 'picture')}",
            ),
            ("gain", "{:+.2%} ({:+.2%} to {:+.2%})".format(other["gain"], *other["gain_interval"])),
            (f"{other['test']}", f"p = {other['p_value']:.3g}"),
        ]
    for column, groups in result.get("slices", {}).items():
        for name, group in groups["groups"].items():
            low, high = group["accuracy_interval"]
            accuracy = f"{group['accuracy']:.2%} ({low:.2%} to {high:.2%})"
            lines.append((f"{column} {name}", f"{accuracy}, {counted(group['count'], 'picture')}"))
        lines.append((f"{column}, equal", f"p = {groups['p_value_holm']:.3g} ({groups['test']})"))
    return lines


def _left_out(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation does not count, for people."""
    lines = []
    if (cross := result["cross_data"]) is not None:
        dropped = [
            f"{name} ({counted(count, 'picture')})" for name, count in cross["data_only"].items()
        ]
        by_words = "words" in cross
        lines = [
            ("trained on", cross["trained_on"]),
            ("classes counted", ", ".join(cross["shared"])),
            (
                f"only in the {'words' if by_words else 'model'}",
                ", ".join(cross["model_only"]) or "none",
            ),
            ("only in the data", ", ".join(dropped) or "none"),
        ]
        if not by_words:
            lines.append(("accuracy, all classes", f"{cross['accuracy_over_all_classes']:.2%}"))
    counts = result["data"]["left_out"]
    if counts["no_face"]:
        lines.append(("without a face", f"{counted(counts['no_face'], 'picture')} left out"))
    if result["data"]["exclude_duplicates"]:
        lines.append(("also in train", f"{counted(counts['duplicates'], 'picture')} left out"))
    return lines
