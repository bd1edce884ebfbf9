"""A paper's table beside ours: means, differences and verdicts against figures by hand."""

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from fervor import results
from fervor.config import Data
from fervor.errors import DataError, UsageError
from fervor.published import Row, table
from fervor.reproduce import Found, reproduce, verdict
from tests.test_results import COMPLETE


def write(output: Path, run: str, seed: int, accuracy: float, *, count: int = 3000) -> Path:
    """A result file of one finished run; accuracy in percent."""
    correct = round(count * accuracy / 100)
    figures = {"count": count, "accuracy": correct / count, "mean_class_accuracy": 0.5}
    path = output / f"{run}-seed{seed}-test.json"
    results.write(path, {**COMPLETE, **figures})
    return path


def cells(text: str, row: str) -> dict[str, str]:
    """One row of a Markdown table by its header."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    header = next(line for line in lines if line and line[0] == "row")
    return next(dict(zip(header, line, strict=True)) for line in lines if line and line[0] == row)


def test_means_gains_and_published_numbers(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((90.0, 91.0, 92.0)):
        write(tmp_path, "ke/rafdb-resnet18", seed, accuracy)
        write(tmp_path, "ke/rafdb-resnet18-ls", seed, accuracy - 4)
    text, failed = reproduce("ke-table4", Data(name="rafdb"), profile="full", output=tmp_path)
    assert failed == []
    row = cells(text, "KE-FER")
    assert row["seeds"] == "3"
    assert row["accuracy"] == f"91.00 ± {statistics.stdev((90, 91, 92)):.2f}"
    assert row["gain over KE-FER baseline (L_s)"] == "+4.00"
    assert row["published, resnet18: rafdb"] == "89.86 (mean 82.11)"
    assert row["published gain"] == f"{89.86 - 87.26:+.2f}"
    assert row["difference"] == f"{91 - 89.86:+.2f}"
    assert row["verdict"] == "above" or row["verdict"] == "within"
    assert cells(text, "SCN")["seeds"] == "quoted"
    assert cells(text, "SCN")["verdict"] == ""
    assert "VTFF" not in text  # it has no number with this encoder


def test_another_encoder_is_said_to_be_one(tmp_path: Path) -> None:
    write(tmp_path, "ke/ferplus-mobilenet-evidence", 0, 80)
    text, _ = reproduce("ke-table2", Data(name="ferplus"), output=tmp_path)
    row = cells(text, "L_s + L_t + L_c")
    assert (row["seeds"], row["accuracy"]) == ("1", "80.00")
    assert row["verdict"] == "other data or encoder"
    assert row["published, resnet18: rafdb / affectnet8"] == "89.86 / 61.25"
    assert cells(text, "L_s")["verdict"] == "not run"
    assert "difference" not in row


@pytest.mark.parametrize(("published", "expected"), [(90, "within"), (93, "below"), (87, "above")])
def test_verdicts(published: float, expected: str) -> None:
    ours = Found((89.5, 90.0, 90.5), (80, 80, 80), 3000)
    assert verdict(ours, published, Row("x")) == expected
    assert verdict(Found(), published, Row("x")) == "not run"
    assert verdict(ours, None, Row("x")) == "other data or encoder"
    assert verdict(ours, published, Row("x", quoted=True)) == ""


def test_the_interval_holds_pictures_and_seeds() -> None:
    seeds, count = (89.0, 90.0, 91.0), 1000
    half = 1.959964 * math.sqrt(90 * 10 / count + 1 / 3)
    ours = Found(seeds, seeds, count)
    for sign in (-1, 1):
        assert verdict(ours, 90 + sign * (half - 0.01), Row("x")) == "within"
        assert verdict(ours, 90 + sign * (half + 0.01), Row("x")) != "within"
    alone = Found((90.0,), (80.0,), count)
    assert verdict(alone, 90 + 1.96 * math.sqrt(90 * 10 / count) + 0.01, Row("x")) == "below"


def test_a_changed_result_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "ke/ferplus-mobilenet-evidence", 0, 80)
    path.write_text(path.read_text().replace("0.8", "0.9"))
    with pytest.raises(DataError, match="was changed since it was written"):
        reproduce("ke-table2", Data(name="ferplus"), output=tmp_path)


def test_another_test_set_is_filed_and_asked_for(tmp_path: Path) -> None:
    shown = table("ke-table5")
    path = write(tmp_path, "ke/rafdb-resnet18", 0, 88)
    path.rename(tmp_path / "ke" / "rafdb-resnet18-seed0-ckplus-first-last-test.json")
    text, _ = reproduce("ke-table5", Data(name="rafdb"), profile="full", output=tmp_path)
    assert cells(text, "KE-FER")["accuracy"] == "88.00"
    assert cells(text, "KE-FER")["published, resnet18: rafdb"] == "87.89"
    assert shown.test["name"] == "ckplus"
    with pytest.raises(UsageError, match="ke-table5 tests on ckplus: give its folder, --test_root"):
        reproduce("ke-table5", Data(name="rafdb", root="x"), profile="full", output=tmp_path)


def test_printing_is_quick(tmp_path: Path) -> None:
    """From finished results, all tables."""
    from fervor.published import tables

    for seed in range(3):
        write(tmp_path, "ke/ferplus-mobilenet-evidence", seed, 80)
    start = time.process_time()
    for name in tables():
        text, _ = reproduce(name, Data(name="ferplus"), output=tmp_path)
        assert text.count("\n|") >= 2
    assert time.process_time() - start < 5


def test_an_empty_folder_gives_a_table_of_rows_to_run(tmp_path: Path) -> None:
    text, _ = reproduce("mpa-ablation", Data(name="ferplus"), output=tmp_path)
    row: dict[str, Any] = cells(text, "+ visual prompts")
    assert row["verdict"] == "not run"
    assert row["published gain, tower not stated: rafdb / affectnet7"] == "+2.32 / +1.63"
    assert not json.dumps(row).count("nan")
