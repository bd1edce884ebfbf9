"""A paper's table beside ours: means, differences and verdicts against figures by hand."""

import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fervor.cli.main import main
from fervor.config import Data, Run
from fervor.data.datasets import protocol_of
from fervor.errors import DataError, UsageError
from fervor.evaluation import results
from fervor.experiments.jobs import Job
from fervor.experiments.paper_tables import Profile, Row, table
from fervor.experiments.reproduce import (
    SeedResults,
    Setting,
    changes_of,
    reproduce,
    seeds_of,
    verdict,
)
from tests.evaluation.test_results import COMPLETE


def write(
    output: Path,
    run: str,
    seed: int,
    accuracy: float,
    *,
    data: str = "ferplus",
    encoder: str = "mobilenet",
    profile: Profile = "evidence",
    name: str = "ke-table3",
    row: str = "template 9",
    count: int = 3000,
    **changes: Any,
) -> Path:
    """A result file of one finished run, as its row's recipe makes it; accuracy in percent."""
    shown = table(name)
    setting = Setting(profile, encoder, Data(name=data), (seed,))
    recipe = setting.recipe(shown, next(one for one in shown.rows if one.name == row))
    config = {**Run.from_values(recipe).resolved(), "seed": seed, **changes.pop("config", {})}
    tested = {"name": data, "protocol": protocol_of(data, ""), "split": "test", "aligned": None}
    label = random_labels(count)
    right = np.arange(count) < round(count * accuracy / 100)
    result = {
        **COMPLETE,
        "model": run,
        "run": {"config": config, "seed": seed, "commit": "abc", "selection": {"mode": "paper"}},
        "data": tested | changes.pop("data_changes", {}),
        "count": count,
        "accuracy": accuracy / 100,
        "mean_class_accuracy": 0.5,
        "answers": {
            "pictures": f"{count} pictures",
            "label": " ".join(map(str, label)),
            "answer": " ".join(map(str, np.where(right, label, 1 - label))),
            "person": "",
        },
    }
    path = output / f"{run}-seed{seed}-test-{results.fingerprint(config)}.json"
    results.write(path, {**result, **changes})
    return path


def random_labels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 2, count)


def cells(text: str, row: str) -> dict[str, str]:
    """One row of a Markdown table by its header."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    header = next(line for line in lines if line and line[0] == "row")
    return next(dict(zip(header, line, strict=True)) for line in lines if line and line[0] == row)


FULL: dict[str, Any] = {"data": "rafdb", "encoder": "resnet18", "profile": "full", "count": 3068}
BASE = {**FULL, "name": "ke-table4", "row": "KE-FER baseline (L_s)"}


def shown(name: str, data: str, output: Path, **settings: Any) -> str:
    text, failed = reproduce(name, Data(name=data), output=output, **settings)
    assert failed == []
    return text


def test_means_gains_and_published_numbers(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((90.0, 91.0, 92.0)):
        write(tmp_path, "ke/rafdb-resnet18", seed, accuracy, **FULL)
        write(tmp_path, "ke/rafdb-resnet18-ls", seed, accuracy - 4, **BASE)
    text = shown("ke-table4", "rafdb", tmp_path, profile="full", same_weights=True)
    row = cells(text, "KE-FER")
    assert row["seeds"] == "3"
    assert row["accuracy"] == f"91.00 ± {statistics.stdev((90, 91, 92)):.2f}"
    assert row["gain over KE-FER baseline (L_s)"] in ("+4.00", "+4.01")
    low, high = (float(word) for word in row["95 %"].split(" to "))
    assert 3 < low < 4 < high < 5 and row["p"] == "< 0.001"
    assert row["published, resnet18: rafdb"] == "89.86 (mean 82.11)"
    assert row["published gain"] == f"{89.86 - 87.26:+.2f}"
    assert row["difference"] == f"{91 - 89.86:+.2f}"
    assert row["verdict"] == "within"
    assert cells(text, "SCN")["seeds"] == "quoted"
    assert cells(text, "SCN")["verdict"] == ""
    assert "VTFF" not in text  # it has no number with this encoder
    assert "was said, not checked" in text


def test_a_gain_over_some_of_the_seeds_names_how_many(tmp_path: Path) -> None:
    """The means beside it are over all seeds of either row."""
    gain = "gain over KE-FER baseline (L_s)"
    for seed in (0, 1):
        write(tmp_path, "ke/rafdb-resnet18-ls", seed, 80.0 + seed, **BASE)
    settings: dict[str, Any] = {"profile": "full", "same_weights": True}
    for seed, expected in enumerate((" (1 seed in both)", "", " (2 seeds in both)")):
        write(tmp_path, "ke/rafdb-resnet18", seed, 90.0 + seed, **FULL)
        row = cells(shown("ke-table4", "rafdb", tmp_path, **settings), "KE-FER")
        assert row["seeds"] == str(seed + 1)
        assert row[gain].partition(" ")[1:] == (" " if expected else "", expected[1:])


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "initial weights": ({}, "initial weights"),
    "selection": ({"run_changes": {"selection": {"mode": "honest"}}}, "selection"),
    "pictures": ({"count": 3000}, "test pictures (3,000, not 3,068)"),
    "settings": ({"config": {"optim": {"epochs": 5}}}, "optim.epochs"),
    "encoder": ({"config": {"encoder": {"name": "swin-t"}}}, "encoder.name"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_a_verdict_needs_the_papers_conditions(kind: str, tmp_path: Path) -> None:
    changes, expected = UNLIKE[kind]
    path = write(tmp_path, "ke/rafdb-resnet18", 0, 89.86, **{**FULL, **changes, "run_changes": 0})
    result = results.read(path)
    result["run"] |= changes.get("run_changes", {})
    results.write(path, result, replace=True)
    said = kind != "initial weights"
    text = shown("ke-table4", "rafdb", tmp_path, profile="full", seeds="1", same_weights=said)
    found = cells(text, "KE-FER")["verdict"]
    assert found.startswith("not comparable: ") and expected in found
    assert cells(text, "KE-FER")["accuracy"] == "89.86"


def test_alignment_is_a_condition_where_the_paper_aligned(tmp_path: Path) -> None:
    given = {**FULL, "data": "affectnet", "count": 4000}
    write(tmp_path, "ke/affectnet8-resnet18", 0, 61.25, **given)
    settings: dict[str, Any] = {"profile": "full", "seeds": "1", "same_weights": True}
    text = shown("ke-table4", "affectnet", tmp_path, **settings)
    assert cells(text, "KE-FER")["verdict"] == "not comparable: alignment"
    write(
        *(tmp_path / "a", "ke/affectnet8-resnet18", 0, 61.25),
        **given,
        data_changes={"aligned": {"size": 224}},
    )
    text = shown("ke-table4", "affectnet", tmp_path / "a", **settings)
    assert cells(text, "KE-FER")["verdict"] == "within"


def test_results_of_other_data_are_not_shown(tmp_path: Path) -> None:
    """A file of the right name is not enough: it says itself what it is of."""
    write(tmp_path, "ke/rafdb-resnet18", 0, 95, **FULL, data_changes={"name": "folder"})
    write(tmp_path, "ke/rafdb-resnet18", 1, 95, **FULL, data_changes={"split": "valid"})
    write(tmp_path, "ke/rafdb-resnet18", 2, 95, **FULL, data_changes={"exclude_duplicates": True})
    text = shown("ke-table4", "rafdb", tmp_path, profile="full")
    assert cells(text, "KE-FER")["verdict"] == "not run"


def test_two_results_of_one_run(tmp_path: Path) -> None:
    path = write(tmp_path, "ke/rafdb-resnet18", 0, 90, **FULL)
    other = write(tmp_path, "ke/rafdb-resnet18", 0, 91, **FULL, config={"options": {"template": 2}})
    text = shown("ke-table4", "rafdb", tmp_path, profile="full", seeds="1")
    assert cells(text, "KE-FER")["accuracy"] == "90.00"  # the row's own
    other.unlink()
    results.write(path.with_stem(f"{path.stem}x"), {**results.read(path), "accuracy": 0.5})
    with pytest.raises(UsageError, match="are of one run: move one of them away"):
        shown("ke-table4", "rafdb", tmp_path, profile="full", seeds="1")


def test_another_encoder_is_said_to_be_one(tmp_path: Path) -> None:
    write(tmp_path, "ke/ferplus-mobilenet-evidence", 0, 80)
    text = shown("ke-table2", "ferplus", tmp_path)
    row = cells(text, "L_s + L_t + L_c")
    assert (row["seeds"], row["accuracy"]) == ("1", "80.00")
    assert row["verdict"] == "other data or encoder"
    assert row["published, resnet18: rafdb / affectnet8"] == "89.86 / 61.25"
    assert cells(text, "L_s")["verdict"] == "not run"
    assert "difference" not in row


@pytest.mark.parametrize("encoder", ["resnet18", "vit", "swin"])
def test_an_encoders_own_numbers_are_shown(encoder: str, tmp_path: Path) -> None:
    text = shown("ke-table2", "ferplus", tmp_path, encoder=encoder, profile="full")
    column = f"published, {encoder}: rafdb / affectnet8"
    expected = table("ke-table2").rows[-2].published[encoder]
    assert cells(text, "L_s + L_t + L_c")[column] == "{rafdb:.2f} / {affectnet8:.2f}".format(
        **expected
    )


@pytest.mark.parametrize(("published", "expected"), [(90, "within"), (93, "below"), (87, "above")])
def test_verdicts(published: float, expected: str) -> None:
    one = {"accuracy": 0.9, "count": 3000}
    ours = SeedResults({seed: {**one, "accuracy": 0.895 + seed * 0.005} for seed in range(3)})
    assert verdict(ours, published, Row("x")) == expected
    assert verdict(SeedResults(), published, Row("x")) == "not run"
    assert verdict(ours, None, Row("x")) == "other data or encoder"
    assert verdict(ours, published, Row("x", quoted=True)) == ""
    assert verdict(ours, published, Row("x"), ["selection"]) == "not comparable: selection"


def test_few_seeds_are_judged_by_students_interval() -> None:
    """Three seeds a point apart: 4.3 standard errors, not two."""
    ours = SeedResults({n: {"accuracy": 0.89 + n / 100, "count": 10**6} for n in range(3)})
    half = 4.302653 / math.sqrt(3)
    for sign in (-1, 1):
        assert verdict(ours, 90 + sign * (half - 0.02), Row("x")) == "within"
        assert verdict(ours, 90 + sign * (half + 0.02), Row("x")) != "within"
    alone = SeedResults({0: {"accuracy": 0.9, "count": 1000}})
    assert verdict(alone, 90 + 1.96 * math.sqrt(90 * 10 / 1000) + 0.05, Row("x")) == "below"


def test_all_right_on_few_images_is_not_above_nearly_all_right() -> None:
    ours = SeedResults({n: {"accuracy": 1.0, "count": 12} for n in range(3)})
    assert verdict(ours, 99.7, Row("x")) == "within"
    assert verdict(ours, 70, Row("x")) == "above"
    many = SeedResults({0: {"accuracy": 1.0, "count": 5000}})
    assert verdict(many, 99.7, Row("x")) == "above"


def test_seeds_that_are_asked_for() -> None:
    ke = table("ke-table2")
    assert seeds_of("3", ke) == (0, 1, 2) and seeds_of("paper", ke) == (29,)
    assert seeds_of("29, 4", ke) == (29, 4) and seeds_of("7,", ke) == (7,)
    assert seeds_of("0,", ke) == (0,) and seeds_of("0,1", ke) == (0, 1)
    with pytest.raises(UsageError, match=r"--seeds paper: the seed of MPA-FER .* is not published"):
        seeds_of("paper", table("mpa-results"))
    for wrong in ("0", "x", "-1", ","):
        with pytest.raises(UsageError, match=f"--seeds {wrong}: expected how many"):
            seeds_of(wrong, ke)
    for many in ("1001", "5000000000", "9" * 5000, "1,4294967296", "1," * 1001):
        with pytest.raises(UsageError, match=r"--seeds .*: expected 1,000 runs of a row at most"):
            seeds_of(many, ke)
    assert len(seeds_of("1000", ke)) == 1000 and seeds_of("4294967295,", ke) == (4294967295,)


def test_parts_of_recipes_are_replaced() -> None:
    shown = table("ke-table1")
    hub = {"kakaobrain/align-base": "a", "openai/clip-vit-base-patch16": "c"}
    setting = Setting(
        *("full", "resnet18", Data(name="rafdb"), (0,)),
        changes=changes_of(
            "optim.epochs=1 optim.learning_rate=0.5 selection=honest encoder.weights=w.pth"
        ),
        folders=hub,
    )
    texts = [setting.recipe(shown, row)["text"]["name"] for row in setting.rows_of(shown)]
    assert texts == ["a", "Salesforce/blip-itm-base-coco", "c"]
    recipe = setting.recipe(shown, shown.rows[0])
    assert (recipe["optim"]["epochs"], recipe["optim"]["learning_rate"]) == (1, 0.5)
    assert (recipe["selection"], recipe["encoder"]["weights"]) == ("honest", "w.pth")
    with pytest.raises(UsageError, match=r"--set epochs=1: expected words as optim\.epochs=1"):
        changes_of("epochs=1")
    with pytest.raises(UsageError, match="--rows x: ke-table1 has ALIGN; BLIP; CLIP"):
        replace(setting, rows=["x"]).rows_of(shown)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optim.epoch=1", r"no setting optim\.epoch: expected .*optim\.epochs"),
        ("optm.epochs=1", r"no setting optm\.epochs: expected .*optim\.epochs"),
        ("optim.epochs=abc", r"--set, classifier: .*optim\.epochs.*Got value: abc"),
        ("selection=nonsense", r"--set, classifier: .*selection.*Got value: nonsense"),
        ("data.validation=2", "--data.validation 2.0: expected a share"),
        ("options.temprature=0.5", r"has no option 'temprature': .*chosen by --rows"),
        ("data.root=elsewhere", r"--set data\.root: give it as --data\.root"),
        ("data.views=1", r"--set data\.views: it is also given as --data\.views"),
    ],
)
@pytest.mark.parametrize("root", ["", "faces"])
def test_what_replaces_settings_is_checked_first(
    words: str, message: str, root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fervor.experiments.reproduce.run_all", pytest.fail)
    given: dict[str, Any] = {"changes": changes_of(words), "given": frozenset({"views"})}
    data = Data(name="ferplus", root=root)
    with pytest.raises(UsageError, match=message) as refused:
        reproduce("ke-table2", data, output=tmp_path, **given)
    assert "\n" not in str(refused.value)


def test_an_option_that_some_rows_have_is_for_these(tmp_path: Path) -> None:
    given: dict[str, Any] = {"changes": changes_of("options.temperature=0.5"), "output": tmp_path}
    with pytest.raises(UsageError, match="--set, classifier: method classifier has no option"):
        reproduce("ke-table2", Data(name="ferplus"), **given)
    text, _ = reproduce("ke-table2", Data(name="ferplus"), rows=["L_s"], **given)
    assert cells(text, "L_s")["verdict"] == "not run"


def test_a_test_is_read_as_the_training_is() -> None:
    words = "data.margin=0.2 data.annotations=original data.faces=largest data.views=1"
    setting = Setting(
        *(
            "full",
            "resnet18",
            Data(name="rafdb", root="faces", margin=0.1, target="majority"),
            (0,),
        ),
        changes=changes_of(words),
    )
    shown = table("ke-table2")
    job = setting.job(shown, shown.rows[1], 0)
    read, test = job.asked().data, setting.tested(shown)
    for name in ("root", "margin", "annotations", "faces"):
        assert getattr(read, name) == getattr(test, name), name
    assert (read.margin, read.annotations, read.views, test.views) == (0.1, "original", 1, 0)
    evaluate = job.steps()[1]
    assert evaluate[evaluate.index("--data.annotations") + 1] == "original"
    other = setting.tested(table("ke-table5"))
    assert (other.name, other.annotations, other.margin) == ("ckplus", "", 0)


def test_options_of_the_data_make_a_row_unlike_the_published_one(tmp_path: Path) -> None:
    write(tmp_path, "ke/rafdb-resnet18", 0, 89.86, **FULL)
    settings: dict[str, Any] = {"profile": "full", "seeds": "1", "same_weights": True}
    text = shown("ke-table4", "rafdb", tmp_path, **settings)
    assert cells(text, "KE-FER")["verdict"] == "within"
    setting = Setting("full", "resnet18", Data(name="rafdb", subset="few-shot:4"), (0,))
    few = setting.job(table("ke-table4"), table("ke-table4").rows[-1], 0).asked().resolved()
    write(tmp_path, "ke/rafdb-resnet18", 0, 89.86, **FULL, config={"data": few["data"]})
    data = Data(name="rafdb", subset="few-shot:4", cache="elsewhere")
    text, _ = reproduce("ke-table4", data, output=tmp_path, **settings)
    assert cells(text, "KE-FER")["verdict"] == "not comparable: data.subset"
    text, _ = reproduce("ke-table4", Data(name="rafdb", margin=0.2), output=tmp_path, **settings)
    assert cells(text, "KE-FER")["verdict"] == "not comparable: data.margin"


def test_an_evaluation_of_words_or_of_some_classes_is_none_of_the_test(tmp_path: Path) -> None:
    words = {"cross_data": {"words": ["happy", "sad"], "shared": ["happiness", "sadness"]}}
    some = {"classes": ["happiness", "sadness"]}
    for folder in ("alone", "both"):
        output = tmp_path / folder
        path = write(output, "ke/rafdb-resnet18", 0, 99, **FULL, **words)
        path.rename(path.with_name("rafdb-resnet18-seed0-words.json"))
        path = write(output, "ke/rafdb-resnet18", 0, 98, **FULL, data_changes=some)
        path.rename(path.with_name("rafdb-resnet18-seed0-some.json"))
    text = shown("ke-table4", "rafdb", tmp_path / "alone", profile="full", seeds="1")
    assert cells(text, "KE-FER")["verdict"] == "not run"
    write(tmp_path / "both", "ke/rafdb-resnet18", 0, 90, **FULL)
    text = shown("ke-table4", "rafdb", tmp_path / "both", profile="full", seeds="1")
    assert cells(text, "KE-FER")["accuracy"] == "90.00"


def test_of_results_that_were_read_otherwise_the_tables_own_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "ke/rafdb-resnet18", 0, 99, **FULL, data_changes={"margin": 0.3})
    path.rename(path.with_name("rafdb-resnet18-seed0-margin.json"))
    settings: dict[str, Any] = {"profile": "full", "seeds": "1", "same_weights": True}
    text = shown("ke-table4", "rafdb", tmp_path, **settings)
    assert cells(text, "KE-FER")["accuracy"] == "99.00"
    write(tmp_path, "ke/rafdb-resnet18", 0, 90, **FULL)
    text = shown("ke-table4", "rafdb", tmp_path, **settings)
    assert cells(text, "KE-FER")["accuracy"] == "90.00"


def test_a_changed_result_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "ke/ferplus-mobilenet-evidence", 0, 80)
    path.write_text(path.read_text().replace("0.8", "0.9"))
    with pytest.raises(DataError, match="was changed since it was written"):
        reproduce("ke-table2", Data(name="ferplus"), output=tmp_path)


def test_another_test_set_is_asked_for(tmp_path: Path) -> None:
    cross = {"name": "ckplus", "protocol": "first-last"}
    given = {**FULL, "name": "ke-table5", "row": "KE-FER", "count": 636}
    write(tmp_path, "ke/rafdb-resnet18", 0, 88, **given, data_changes=cross)
    text = shown("ke-table5", "rafdb", tmp_path, profile="full", seeds="1", same_weights=True)
    assert cells(text, "KE-FER")["accuracy"] == "88.00"
    assert cells(text, "KE-FER")["published, resnet18: rafdb"] == "87.89"
    assert cells(text, "KE-FER")["verdict"] == "not comparable: alignment"
    setting = Setting("full", "resnet18", Data(name="rafdb"), (0,))
    assert setting.tested(table("ke-table5")).faces == "largest"
    aligned = replace(setting, test_aligned="crops").tested(table("ke-table5"))
    assert (aligned.faces, aligned.aligned) == ("precropped", "crops")
    with pytest.raises(UsageError, match="ke-table5 tests on ckplus: give its folder, --test_root"):
        reproduce("ke-table5", Data(name="rafdb", root="x"), profile="full", output=tmp_path)


def test_printing_is_quick(tmp_path: Path) -> None:
    """From finished results, all tables."""
    from fervor.experiments.paper_tables import tables

    for seed in range(3):
        write(tmp_path, "ke/ferplus-mobilenet-evidence", seed, 80)
    import fervor.evaluation.significance  # noqa: F401  (its import is not what is measured)

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


def test_a_data_option_replaces_the_recipes_even_as_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs: list[Job] = []

    def run_all(given: list[Job], **_: Any) -> list[Job]:
        jobs.extend(given)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fervor.experiments.reproduce.run_all", run_all)
    words = ["reproduce", "ke-table2", "--data.name", "ferplus", "--data.root=faces", "--seeds=1"]
    views = set()
    for more in ([], ["--data.views", "0"], ["--data.views=3"]):
        jobs.clear()
        assert main([*words, *more]) == 0
        views.add(tuple(sorted({job.asked().data.views for job in jobs})))
    assert views == {(5,), (0,), (3,)}
