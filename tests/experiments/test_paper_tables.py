"""Tables of papers as data: every row has a run, and recipes are what the rows say."""

import re
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from fervor.cli.arguments import arguments_of
from fervor.config import Run
from fervor.data.datasets import dataset
from fervor.errors import UsageError
from fervor.experiments.paper_tables import Table, data_key, table, tables
from fervor.methods import method_class
from fervor.methods.ke import KE
from fervor.methods.options import method_options
from fervor.recipes import RECIPES, recipes


ROWS = [
    (shown, profile, encoder)
    for shown in tables().values()
    for profile in shown.names
    for encoder in shown.names[profile]
]


def run_of(given: list[str]) -> Run:
    def command(run: Run) -> int:
        raise AssertionError("only its options are read")

    run: Run = arguments_of("train", command, given)["run"]
    return run


def test_the_tables_that_are_promised() -> None:
    ke = {f"ke-table{n}" for n in range(1, 6)} | {f"ke-figure{n}" for n in (1, 3, 4, 5, 6, 7)}
    others = {f"{paper}-{kind}" for paper in ("mpa", "lacovl") for kind in ("results", "ablation")}
    assert set(tables()) == ke | others
    with pytest.raises(UsageError, match=r"unknown table 'ke-tabel2': expected one of ke-table"):
        table("ke-tabel2")


@pytest.mark.parametrize("shown", tables().values(), ids=tables())
def test_rows_are_told_apart(shown: Table) -> None:
    for profile in shown.names:
        rows = shown.rows_of(profile)
        assert len({row.name for row in rows}) == len(rows) > 0
        runs = [row for row in rows if not row.quoted]
        for encoder in shown.names[profile]:
            names = [shown.run_name(row, profile, encoder, "ferplus") for row in runs]
            assert len(set(names)) == len(names)
        if profile == "evidence" or shown.base in {row.name for row in rows}:
            continue
        assert not shown.base, f"{shown.name}: no row {shown.base}"
    for row in shown.rows:
        for numbers in row.published.values():
            for value in numbers.values():
                both = value if isinstance(value, list) else [value]
                assert all(40 < number < 100 for number in both)


def test_published_numbers_of_the_method_agree_between_tables() -> None:
    """What one table prints of KE-FER and its baseline, the others print too."""
    rows = {name: {row.name: row.published for row in table(name).rows} for name in tables()}
    complete = rows["ke-table4"]["KE-FER"]
    assert rows["ke-table3"]["template 9"] == complete
    baseline = rows["ke-table4"]["KE-FER baseline (L_s)"]
    assert rows["ke-table1"]["CLIP"] == baseline
    for encoder in ("resnet18", "swin"):
        losses = rows["ke-table2"]
        assert losses["L_s"][encoder]["rafdb"] == baseline[encoder]["rafdb"][0]
        assert losses["L_s + L_t + L_c"][encoder]["rafdb"] == complete[encoder]["rafdb"][0]
        assert losses["L_s + L_t + L_c"][encoder]["affectnet8"] == complete[encoder]["affectnet8"]
    gains = [row.gain["tower not stated"] for row in table("mpa-ablation").rows if row.gain]
    steps = [round(b["rafdb"] - a["rafdb"], 2) for a, b in pairwise(gains)]
    assert steps == [2.32, 0.95, 1.76, 1.33]


def test_the_finished_evidence_is_found_by_name() -> None:
    shown = table("ke-table2")
    names = [shown.run_name(row, "evidence", "mobilenet", "ferplus") for row in shown.rows]
    assert names == [
        "classifier/ferplus-mobilenet-evidence",
        "ke/ferplus-mobilenet-evidence-ls",
        "ke/ferplus-mobilenet-evidence-ls-lt",
        "ke/ferplus-mobilenet-evidence-ls-lc",
        "ke/ferplus-mobilenet-evidence",
        "ke/ferplus-mobilenet-evidence-learned",
    ]
    shown = table("mpa-ablation")
    for row in shown.rows_of("evidence"):
        assert shown.run_name(row, "evidence", "embedded", "ferplus") in recipes()


@pytest.mark.parametrize("name", ["ke-table2", "mpa-ablation", "lacovl-ablation"])
def test_a_made_recipe_is_the_packaged_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row sets turns the complete method's recipe into the row's own."""
    shown = table(name)
    encoder = shown.encoder("evidence", "")
    for row in shown.rows_of("evidence"):
        run = shown.run_name(row, "evidence", encoder, "ferplus")
        if run not in recipes() or not (row.suffix or row.method):
            continue
        packaged = yaml.safe_load((RECIPES / f"{run}.yaml").read_text())
        others = [known for known in recipes() if known != run]
        with monkeypatch.context() as patch:
            patch.setattr("fervor.experiments.paper_tables.recipes", lambda others=others: others)
            made = shown.recipe(row, "evidence", encoder, "ferplus")
        assert made.pop("name") == run
        plain = [Run.from_values(values).resolved() for values in (made, packaged)]
        assert plain[0] == plain[1], run


@pytest.mark.parametrize(("shown", "profile", "encoder"), ROWS)
def test_every_recipe_is_read(shown: Table, profile: str, encoder: str, tmp_path: Path) -> None:
    """On RAF-DB, on which most rows have no recipe of their own; first and last row of a table."""
    rows = [row for row in shown.rows_of(profile) if not row.quoted]
    first = encoder == shown.encoder(profile, "")
    for row in (rows[0], rows[-1]) if first else rows[-1:]:
        complete = shown.names[profile][encoder].format(method=shown.method, data="ferplus")
        if complete not in recipes():
            pytest.skip(f"no recipe {complete} yet")
        recipe = shown.recipe(row, profile, encoder, "rafdb")
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        run = run_of(["--config", str(path), "--data.name", "rafdb"])
        assert run.name == shown.run_name(row, profile, encoder, "rafdb")
        assert run.method == (row.method or shown.method)
        assert run.data.protocol in ("", "basic") and run.data.train_protocol == ""
        for key, value in row.set.items():
            if key.startswith("options."):
                assert run.options[key.removeprefix("options.")] == value
        if row.text:
            assert run.text.name == row.text


@cache
def read(recipe: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    return values


SETS = [
    *(("ferplus", rule) for rule in dataset("ferplus").PROTOCOLS),
    *(("rafdb", rule) for rule in dataset("rafdb").PROTOCOLS),
    *(("affectnet", rule) for rule in dataset("affectnet").PROTOCOLS),
    *(("ckplus", rule) for rule in dataset("ckplus").PROTOCOLS),
]


@pytest.mark.parametrize(("shown", "profile", "encoder"), ROWS)
def test_every_row_is_a_run_on_every_data_set(
    shown: Table, profile: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its method has the options and takes the networks beside it."""
    names = recipes()
    monkeypatch.setattr("fervor.experiments.paper_tables.recipes", lambda: names)
    monkeypatch.setattr("fervor.experiments.paper_tables._read", lambda name: deepcopy(read(name)))
    for row in shown.rows_of(profile):
        for name, protocol in SETS if not row.quoted else ():
            run = Run.from_values(shown.recipe(row, profile, encoder, data_key(name, protocol)))
            run.check()
            method_options(run.method, run.options)
            beside = {"landmarks": run.landmarks.name, "teacher": run.teacher.name}
            named = {network for network, own in beside.items() if own != "none"}
            assert named <= set(method_class(run.method).auxiliary), (row.name, name, protocol)


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = table("ke-table2")
    with pytest.raises(UsageError, match=r"--encoder clip: ke-table2 in profile evidence has mob"):
        shown.encoder("evidence", "clip")
    monkeypatch.setattr("fervor.experiments.paper_tables.recipes", lambda: [])
    with pytest.raises(UsageError, match=re.escape("row L_s: no recipe ke/ckplus-vit-ls, nor")):
        shown.recipe(shown.rows[1], "full", "vit", "ckplus")


def test_data_sets_are_named_with_protocols_that_are_not_usual() -> None:
    assert data_key("ferplus", "") == data_key("ferplus", "majority") == "ferplus"
    assert data_key("ferplus", "majority7") == "ferplus-majority7"
    assert data_key("affectnet", "affectnet7") == "affectnet7"
    assert data_key("affectnet", "") == "affectnet8"


# KE-FER as published: every setting that the paper or its code names, written here again

PUBLISHED_RUN = {
    "method": "ke",
    "selection": "paper",  # the best epoch on test (released code)
    "seed": 29,
    "optim.name": "sgd",
    "optim.epochs": 50,
    "optim.batch_size": 64,
    "optim.learning_rate": 0.002,
    "optim.momentum": 0.9,
    "optim.nesterov": False,
    "optim.weight_decay": 0.0005,
    "optim.decay_all": True,
    "optim.schedule": "epoch",
    "optim.warmup_epochs": 1,
    "optim.warmup_learning_rate": 0.0001,
    "optim.average": 0,
    "optim.clip": 0,
    "optim.sam": 0,
    "augment.flip": 0.5,
    "augment.crop_padding": 4,
    "augment.erase": 0.5,
    "augment.erase_area": 0.25,
    "text.name": "openai/clip-vit-base-patch16",
    "options.temperature": 0.01,
    "options.similarity_weight": 1,
    "options.transformation_weight": 1,
    "options.contrast_weight": 1,
    "options.template": 9,
    "data.target": "majority",
    "data.views": 0,
    "data.epoch_fraction": 1,
}
PUBLISHED_DATA = {
    "rafdb": ("rafdb", "basic", "plain"),
    "affectnet7": ("affectnet", "affectnet7", "imbalance"),  # oversampling, as SCN
    "affectnet8": ("affectnet", "affectnet8", "imbalance"),
    "ferplus": ("ferplus", "majority", "plain"),
}
PUBLISHED_ENCODERS = {
    "resnet18": ("resnet18", "", 224),
    "swin": ("swin-t-112", "", 112),
    "vit": ("clip", "openai/clip-vit-base-patch16", 224),
}


def value(run: Run, name: str) -> object:
    found: object = run
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


@pytest.mark.parametrize("encoder", PUBLISHED_ENCODERS)
@pytest.mark.parametrize("data", PUBLISHED_DATA)
def test_published_recipes_hold_the_published_settings(data: str, encoder: str) -> None:
    run = run_of(["--config", f"ke/{data}-{encoder}"])
    expected: dict[str, object] = dict(PUBLISHED_RUN)
    names = ("data.name", "data.protocol", "data.sampling")
    expected |= dict(zip(names, PUBLISHED_DATA[data], strict=True))
    names = ("encoder.name", "encoder.weights", "encoder.size")
    expected |= dict(zip(names, PUBLISHED_ENCODERS[encoder], strict=True))
    assert {name: value(run, name) for name in expected} == expected
    defaults = KE.Options()
    for name in ("contrast", "self_contrast", "margin", "text", "centre", "bottleneck"):
        assert run.options.get(name, getattr(defaults, name)) == getattr(defaults, name)
    assert (defaults.contrast, defaults.self_contrast) == ("self", "diagonal")
    assert (defaults.margin, defaults.bottleneck) == (2, 4)


def test_every_published_number_has_a_recipe_of_its_own() -> None:
    """No row of the full profile is made from another data set's recipe."""
    for name in (f"ke-table{number}" for number in range(1, 6)):
        shown = table(name)
        for row in shown.rows:
            for encoder, numbers in row.published.items():
                for data in numbers if not row.quoted else ():
                    complete = shown.names["full"][encoder].format(method="ke", data=data)
                    assert complete in recipes(), f"{name}, {row.name}: {complete}"
                    recipe = shown.recipe(row, "full", encoder, data)
                    assert (recipe["selection"], recipe["seed"]) == ("paper", 29)


def test_the_papers_conditions_are_stated() -> None:
    conditions = table("ke-table4").conditions
    assert (conditions.selection, conditions.seed) == ("paper", 29)
    assert conditions.counts["rafdb"] == 3068 and conditions.counts["ckplus"] == 636
    assert conditions.weights["vit"] == "openai/clip-vit-base-patch16"
