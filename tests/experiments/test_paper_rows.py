"""Every row of KE-FER's tables by one command each: made-up pictures in official layouts, made-up
weights, a few steps. What is looked at is the way, not the numbers."""

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml

from fervor.cli.main import main
from fervor.config import Encoder
from fervor.data.alignment import align
from fervor.data.datasets import affectnet, ckplus, ferplus, rafdb
from fervor.experiments.paper_tables import Row, table
from fervor.experiments.processes import Processes
from fervor.labels import AFFECTNET, CKPLUS, EXPRESSIONS, RAFDB
from fervor.models.image import build_image_encoder
from tests.support import tiny, trees
from tests.support.drawn import rows, write_pictures


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode"),
]

TABLES = ("ke-table1", "ke-table2", "ke-table3", "ke-table4", "ke-table5")
SMALL = {"train": 2, "test": 1}
KEPT = {name: 1 for name in CKPLUS if name != "neutral"}
SETS = {
    "rafdb": ("rafdb", ""),
    "affectnet7": ("affectnet", "affectnet7"),
    "affectnet8": ("affectnet", "affectnet8"),
    "ferplus": ("ferplus", ""),
}
SHORT = "optim.epochs=1 optim.batch_size=6"

CASES = [
    (name, encoder, data, row)
    for name in TABLES
    for encoder in table(name).names["full"]
    for row in table(name).rows
    for data in row.published.get(encoder, {})
    if not row.quoted
]
"""Everything that the paper has printed a number of."""

SAMPLED = 16
"""Rows that the slow tests run, drawn by FERVOR_TEST_SEED; FERVOR_TEST_ALL=1 runs every one."""
if not os.environ.get("FERVOR_TEST_ALL"):
    CASES = random.Random(os.environ.get("FERVOR_TEST_SEED", "0")).sample(CASES, SAMPLED)

QUICK = [
    ("ke-table1", "resnet18", "ferplus", "ALIGN"),
    ("ke-table2", "vit", "rafdb", "L_s + L_t"),
    ("ke-table3", "resnet18", "affectnet7", "template 3"),
    ("ke-table5", "resnet18", "rafdb", "KE-FER"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Data sets, a ResNet-18 and a Swin-T as their authors save them, and folders of models."""
    root = tmp_path_factory.mktemp("made")
    sizes = {split: dict.fromkeys(EXPRESSIONS, count) for split, count in SMALL.items()}
    trees.write_rafdb(root / "rafdb", sizes)
    trees.write_affectnet(root / "affectnet", sizes)
    trees.write_ckplus(root / "ckplus", KEPT)
    write_pictures(
        root / "ferplus",
        {
            "train": rows(0, EXPRESSIONS * 2),
            "valid": rows(50, EXPRESSIONS),
            "test": rows(90, EXPRESSIONS),
        },
    )
    torch.manual_seed(0)
    for family, write in (
        ("clip", tiny.save_clip),
        ("align", tiny.save_align),
        ("blip", tiny.save_blip),
    ):
        write(root / family)
    for name, size in (("resnet18", 32), ("swin-t-112", 112)):
        encoder = build_image_encoder(Encoder(name=name, weights="random", size=size))
        state = {key.removeprefix("trunk."): value for key, value in encoder.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": state}, root / f"{name}.pth.tar")
    return {path.name.removesuffix(".pth.tar"): path for path in root.iterdir()}


@pytest.fixture(autouse=True)
def small(made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The made-up releases count as official, and commands run in this process."""
    monkeypatch.setattr(
        rafdb, "COUNTS", {split: dict.fromkeys(RAFDB, count) for split, count in SMALL.items()}
    )
    monkeypatch.setattr(
        affectnet,
        "COUNTS",
        {split: dict.fromkeys(AFFECTNET, count) for split, count in SMALL.items()},
    )
    monkeypatch.setattr(ckplus, "COUNTS", {name: KEPT.get(name, 0) for name in CKPLUS})
    counts = {"train": (2,) * 8, "valid": (1,) * 8, "test": (1,) * 8}
    monkeypatch.setattr(ferplus, "COUNTS", {"label.csv": {"majority": counts}})

    def run(self: Processes, words: list[str], log: Path, *_: object) -> int:
        log.touch()
        return main(words)

    monkeypatch.setattr(Processes, "run", run)
    monkeypatch.chdir(tmp_path)


def words(made: Mapping[str, Path], name: str, encoder: str, data: str, row: str) -> list[str]:
    """The command of one row; what is long is made short by --set."""
    data_name, protocol = SETS[data]
    given = ["reproduce", name, "--profile", "full", "--encoder", encoder, "--rows", row]
    given += ["--data.name", data_name, "--data.root", str(made[data_name]), "--seeds", "paper"]
    given += ["--data.protocol", protocol] if protocol else []
    for family in ("clip", "align", "blip"):
        given += [f"--{family}", str(made[family])]
    size = ""
    if encoder != "vit":
        file = {"resnet18": "resnet18", "swin": "swin-t-112"}[encoder]
        given += ["--encoder.weights", str(made[file])]
    if encoder != "swin":
        size = " encoder.size=32"
    if table(name).test:
        if not Path("aligned").exists():  # no detector finds a drawn face
            align("ckplus", str(made["ckplus"]), "aligned", protocol="first-last", size=32)
        given += ["--test_root", str(made["ckplus"]), "--test_aligned", "aligned"]
    return [*given, "--set", SHORT + size]


def check(
    made: Mapping[str, Path],
    case: tuple[str, str, str, Row],
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, encoder, data, row = case
    assert main(words(made, name, encoder, data, row.name)) == 0
    text = capsys.readouterr().out
    shown = next(line for line in text.splitlines() if line.startswith(f"| {row.name} "))
    assert "not comparable: " in shown and "initial weights" in shown and "optim.epochs" in shown
    run = table(name).run_name(row, "full", encoder, data)
    config = yaml.safe_load(Path(f"runs/{run}-seed29/config.yaml").read_text())
    assert config["selection"] == "paper"
    assert config["data"]["sampling"] == ("imbalance" if data.startswith("aff") else "plain")
    weights = {"resnet18": "resnet18", "swin": "swin-t-112", "vit": "clip"}[encoder]
    assert config["encoder"]["weights"] == str(made[weights])
    if config["method"] == "ke":
        family = row.name.lower() if row.name in ("ALIGN", "BLIP") else "clip"
        assert config["text"]["name"] == str(made[family])
        for option, value in row.set.items():
            assert config["options"][option.removeprefix("options.")] == value
    else:
        assert config["method"] == "classifier" and config["options"] == {}
    (result,) = Path("results").glob(f"{run}-seed29*.json")
    assert not main(words(made, name, encoder, data, row.name))  # again: nothing is left to do
    assert list(Path("results").glob(f"{run}-seed29*.json")) == [result]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: "-".join(case))
def test_a_row_runs_by_one_command(
    case: tuple[str, str, str, str], made: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, encoder, data, row = case
    chosen = next(one for one in table(name).rows if one.name == row)
    check(made, (name, encoder, data, chosen), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join((*case[:3], case[3].name)))
def test_every_row_runs_by_one_command(
    case: tuple[str, str, str, Row], made: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    check(made, case, capsys)


def test_weights_have_to_be_given(
    made: Mapping[str, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = words(made, "ke-table4", "resnet18", "rafdb", "KE-FER")
    place = given.index("--encoder.weights")
    assert main(given[:place] + given[place + 2 :]) == 1
    assert "encoder resnet18 has no weights of its own: name a file" in capsys.readouterr().err
    assert not list(Path("results").rglob("*.json"))
