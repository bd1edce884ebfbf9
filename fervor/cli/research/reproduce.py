"""The command `fervor reproduce`."""

from pathlib import Path
from typing import Literal

from fervor.cli.notes import notes
from fervor.config import Data
from fervor.errors import DONE, PROBLEM


def reproduce(
    table: str,
    *,
    data: Data,
    given: frozenset[str] = frozenset(),
    encoder: str = "",
    encoder_weights: str = "",
    text_name: str = "",
    clip: str = "",
    align: str = "",
    blip: str = "",
    selection: Literal["", "honest", "paper"] = "",
    set: str = "",
    same_weights: bool = False,
    rows: str = "",
    profile: Literal["evidence", "full"] = "evidence",
    seeds: str = "3",
    jobs: int = 1,
    test_root: str = "",
    test_aligned: str = "",
    output: str = "results",
    runs: str = "runs",
) -> int:
    """Print a paper's table beside this project's numbers; with a data set, run what is missing.

    Args:
        table: ke-table1 to ke-table5, ke-figure1 and 3 to 7, mpa-results, mpa-ablation,
            lacovl-results or lacovl-ablation.
        data: which pictures; without data.root finished runs are printed and nothing is trained.
        given: names of the options on the command line; those of data replace a recipe's setting,
            their defaults too.
        encoder: mobilenet, resnet18, swin, vit, embedded, clip-b16, clip-l14 or ir50, as the table
            has it; empty for the profile's first.
        encoder_weights: (or --encoder.weights) file or folder of the encoder's initial weights.
        text_name: (or --text.name) the text encoder of rows that do not name their own.
        clip: folder of the CLIP model that recipes name on the hub: text, encoder and teacher.
        align: the same for ALIGN, of ke-table1.
        blip: the same for BLIP, of ke-table1.
        selection: honest chooses the epoch on validation, paper on test; empty for the recipe's.
        set: settings that replace the recipes', as "optim.epochs=1 optim.batch_size=8".
        same_weights: you say that the files you give hold the paper's initial weights; without it
            no verdict is given on rows that start from a file.
        rows: names of the rows that are run and shown, separated by semicolons; empty for all.
        profile: evidence for two cores, full for the published settings.
        seeds: how many, from 0 on; some, as 1,2; or paper for the paper's own.
        jobs: runs side by side, each a process.
        test_root: folder of the data set that is tested on, where that is another one.
        test_aligned: folder of its aligned pictures (fervor data align).
        output: folder of result files.
        runs: folder of run folders.
    """
    from fervor.experiments import reproduce as work

    changes = work.changes_of(set)
    options = {"encoder.weights": encoder_weights, "text.name": text_name, "selection": selection}
    changes |= {name: value for name, value in options.items() if value}
    folders = {"clip": clip, "align": align, "blip": blip}
    with notes("fervor.experiments.jobs"):
        text, failed = work.reproduce(
            table,
            data,
            given=frozenset(
                name.removeprefix("data.") for name in given if name.startswith("data.")
            ),
            encoder=encoder,
            profile=profile,
            seeds=seeds,
            jobs=jobs,
            test_root=test_root,
            test_aligned=test_aligned,
            changes=changes,
            folders={family: folder for family, folder in folders.items() if folder},
            rows=[name.strip() for name in rows.split(";")] if rows else [],
            same_weights=same_weights,
            output=Path(output),
            runs=Path(runs),
        )
    print(text)
    return PROBLEM if failed else DONE
