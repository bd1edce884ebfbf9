"""Commands for those who train models and measure them."""

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fervor import extras
from fervor.commands.notes import notes
from fervor.config import Data, Run
from fervor.errors import UsageError
from fervor.exitcodes import DONE, FOUND


def train(run: Run, *, resume: str = "", clip: str = "") -> int:
    """Train a model into a run folder.

    Args:
        run: a recipe: a name such as ke/ferplus-mobilenet, or a YAML file; options override it.
        resume: run folder of an interrupted run that goes on where it stopped.
        clip: hub name or folder of the CLIP model whose towers the run takes, all of one model.
    """
    if clip:
        run = run.with_clip(clip)
    module = "fervor.landmarks" if run.method == "landmarks" else "fervor.training"
    training = extras.load(module, extra="train")
    # hardware notes, product tips, and warnings about Lightning's own code
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if resume:
        run = replace(run, output=resume)
    with notes(module):
        print(training.train(run, resume=bool(resume)))
    return DONE


def evaluate(
    *,
    model: str,
    data: Data,
    split: str = "test",
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
        split: train, valid or test.
        output: folder of result files.
        exclude_duplicates: leave out pictures that also stand in train, pixel by pixel.
        report: write figures, tables and a page into a folder beside the result file.
        umap: lay the features out by UMAP too, in the report; takes a minute more.
        compare: another model folder that answers the same pictures (McNemar's test).
        slices: attributes of the pictures, separated by commas, by which accuracy is divided.
    """
    path, result = extras.load("fervor.evaluation", extra="train").evaluate(
        model,
        data,
        split=split,
        output=output,
        exclude_duplicates=exclude_duplicates,
        report=report,
        umap=umap,
        compare=compare,
        slices=[name.strip() for name in slices.split(",")] if slices else [],
    )
    low, high = result["accuracy_interval"]
    print(f"accuracy             {result['accuracy']:.2%} ({low:.2%} to {high:.2%}, 95 %)")
    persons = f" of {result['persons']} persons" if result["persons"] else ""
    print(f"                     {result['correct']} of {result['count']} pictures{persons}")
    print(f"mean class accuracy  {result['mean_class_accuracy']:.2%}")
    print(f"macro F1             {result['macro_f1']:.2%}")
    print(f"calibration error    {result['calibration_error']:.2%}")
    for title, text in [*_left_out(result), *_compared(result)]:
        print(f"{title:21}{text}")
    print(f"written to           {path}")
    if report:
        print(f"report               {path.with_suffix('')}/report.html")
    return DONE


def robustness(
    *,
    model: str,
    data: Data,
    split: str = "test",
    output: str = "results/robustness",
    baseline: str = "",
    pictures: int = 0,
    seed: int = 0,
    report: bool = False,
) -> int:
    """Measure a model under corruptions: occlusion, pose, light, loss of detail.

    Args:
        model: a run folder or model folder; embedded for the one that fervor ships.
        data: which pictures.
        split: train, valid or test.
        output: folder of result files.
        baseline: a model folder to compare with, or its result file of the same pictures.
        pictures: how many pictures, chosen by the seed; 0 for all.
        seed: of the choice and of everything that is random in a corruption.
        report: draw accuracy over severity beside the result file.
    """
    path, result = extras.load("fervor.robustness", extra="train").robustness(
        model,
        data,
        split=split,
        output=output,
        baseline=baseline,
        pictures=pictures,
        seed=seed,
        report=report,
    )
    print(f"{'':16}" + "".join(f"{severity:>8}" for severity in range(1, 6)) + "    mean")
    for name, row in result["corruptions"].items():
        shown = [*row["accuracy"], row["mean_accuracy"]]
        print(f"{name:16}" + "".join(f"{accuracy:8.1%}" for accuracy in shown))
    print(
        f"clean {result['clean']['accuracy']:.2%}, corrupted {result['mean_accuracy']:.2%} on ",
        end="",
    )
    print(f"{result['count']} pictures")
    if (other := result.get("baseline")) and other["mean_corruption_error"] is not None:
        error = other["mean_corruption_error"]
        print(f"mean corruption error {error:.1%} of that of {other['model']}")
    print(f"written to {path}")
    return DONE


def reproduce(
    table: str,
    *,
    data: Data,
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
    from fervor import reproduce as work

    changes = work.changes_of(set)
    given = {"encoder.weights": encoder_weights, "text.name": text_name, "selection": selection}
    changes |= {name: value for name, value in given.items() if value}
    folders = {"clip": clip, "align": align, "blip": blip}
    with notes("fervor.runs"):
        text, failed = work.reproduce(
            table,
            data,
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
    return FOUND if failed else DONE


def sweep(
    run: Run,
    *,
    vary: str,
    figure: Literal["accuracy", "mean_class_accuracy", "macro_f1", "negative_log_likelihood"] = (
        "accuracy"
    ),
    trials: int = 0,
    study: str = "",
) -> int:
    """Train a recipe under many settings and rank them on validation; a stopped sweep goes on.

    Args:
        run: the recipe.
        vary: settings with their values, separated by spaces: options.temperature=0.05,0.1 for a
            list, optim.rate=0.001..0.1 for a range, with :log behind it for a logarithmic one.
        figure: what ranks, on the selection split.
        trials: how many; 0 for every combination of lists.
        study: folder of the sweep; empty for runs/sweeps and the recipe's name.
    """
    work = extras.load("fervor.sweep", extra="train")
    folder = Path(study or f"runs/sweeps/{run.name or run.method}")
    with notes("fervor.runs"):
        found = work.sweep(run, vary.split(), figure=figure, trials=trials, folder=folder)
    for row in found.rows:
        shown = f"{row['selection'][figure]:.4f}" if "selection" in row else "failed"
        print(f"{shown:8}", *(f"{name}={value}" for name, value in row["settings"].items()))
    print(f"written to {found.path}")
    return DONE


def _compared(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation says of another model and of groups of pictures, for people."""
    lines = []
    if (other := result.get("comparison")) is not None:
        lines += [
            ("compared with", f"{other['model']}, accuracy {other['accuracy']:.2%}"),
            ("right alone", f"{other['first_only']} against {other['second_only']} pictures"),
            ("gain", "{:+.2%} ({:+.2%} to {:+.2%})".format(other["gain"], *other["gain_interval"])),
            (f"{other['test']}", f"p = {other['p_value']:.3g}"),
        ]
    for column, found in result.get("slices", {}).items():
        for name, group in found["groups"].items():
            low, high = group["accuracy_interval"]
            accuracy = f"{group['accuracy']:.2%} ({low:.2%} to {high:.2%})"
            lines.append((f"{column} {name}", f"{accuracy}, {group['count']} pictures"))
        lines.append((f"{column}, equal", f"p = {found['p_value_holm']:.3g} ({found['test']})"))
    return lines


def _left_out(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation does not count, for people."""
    lines = []
    if (cross := result["cross_data"]) is not None:
        dropped = [f"{name} ({count} pictures)" for name, count in cross["data_only"].items()]
        lines = [
            ("trained on", cross["trained_on"]),
            ("classes counted", ", ".join(cross["shared"])),
            ("only in the model", ", ".join(cross["model_only"]) or "none"),
            ("only in the data", ", ".join(dropped) or "none"),
            ("accuracy, all classes", f"{cross['accuracy_over_all_classes']:.2%}"),
        ]
    found = result["data"]["left_out"]
    if found["no_face"]:
        lines.append(("without a face", f"{found['no_face']} pictures left out"))
    if result["data"]["exclude_duplicates"]:
        lines.append(("also in train", f"{found['duplicates']} pictures left out"))
    return lines


def data_check(
    name: str, root: str, *, protocol: str = "", annotations: str = "", quick: bool = False
) -> int:
    """Compare a data set's folder with its official tree, counts and pictures.

    Args:
        name: the data set: ferplus, rafdb, affectnet, ckplus, folder or csv.
        root: its folder.
        protocol: the rule that turns annotations into labels; empty for the data set's default.
        annotations: label source or kind of pictures, where a data set has several.
        quick: read only the headers of pictures, and compare files instead of pixels.
    """
    from fervor import datacheck

    report = datacheck.check(name, root, protocol=protocol, annotations=annotations, quick=quick)
    print("\n".join(report.lines))
    return FOUND if report.problems else DONE


def data_align(
    name: str,
    root: str,
    out: str,
    *,
    protocol: str = "",
    annotations: str = "",
    size: int = 112,
    margin: float = 0.0,
    missing: Literal["keep", "centre", "skip"] = "keep",
    threads: int = 0,
) -> int:
    """Find, align and cut out the faces of a data set once; a stopped run goes on.

    Args:
        name: the data set.
        root: its folder.
        out: folder of the crops and their manifest, for --data.aligned.
        protocol: whose pictures; empty for the data set's default.
        annotations: label source where a data set has several.
        size: pixels of a crop's side.
        margin: added on each side of the crop that predict cuts out, as a share of its side.
        missing: where no face is found, keep the whole picture or annotated box, cut out its
            centre, or skip it; the manifest lists which.
        threads: threads; 0 for all cores.
    """
    from fervor.align import align
    from fervor.manifest import MANIFEST

    counts = align(
        name,
        root,
        out,
        protocol=protocol,
        annotations=annotations,
        size=size,
        margin=margin,
        missing=missing,
        threads=threads,
    )
    lost = counts["kept"] + counts["centred"] + counts["skipped"]
    print(
        f"{out}: {sum(counts.values())} pictures, {counts['ok']} aligned, {lost} without a face "
        f"({counts['kept']} kept, {counts['centred']} centred, {counts['skipped']} skipped), "
        f"{counts['error']} unreadable; listed in {MANIFEST}"
    )
    return FOUND if counts["error"] else DONE


def export(
    *, model: str, output: str, half: bool = False, int8: bool = False, pictures: str = ""
) -> int:
    """Write a trained model as model.onnx and model.json, checked against torch.

    Args:
        model: the run folder.
        output: the model folder that is written.
        half: store kernels and matrices in half precision; they are computed with in single.
        int8: write model.int8.onnx too, whose convolutions compute in eight bits.
        pictures: with int8, a folder of cut-out faces from which the ranges of eight bits are read;
            empty for the run's own training pictures.
    """
    if pictures and not int8:
        raise UsageError(f"pictures={pictures}: needs --int8")
    exporting = extras.load("fervor.export", extra="train")
    faces = None
    if int8:
        quantising = extras.load("fervor.quantise", extra="train")
        faces = quantising.faces_of(model, pictures)
    graph = exporting.export(model=model, output=output, half=half)
    print(graph)
    if faces is not None:
        report = quantising.add_int8(graph.parent, faces)
        print(
            f"{report.graph}: {report.bytes} bytes, gives the same answer to "
            f"{report.agreement:.1%} of {report.faces} faces"
        )
    return DONE


def convert(file: str, output: str) -> int:
    """Turn a paper's weight file into safetensors, read without executing anything.

    Args:
        file: a .pt, .pth or .pth.tar file.
        output: the .safetensors file that is written.
    """
    report = extras.load("fervor.convert", extra="train").convert(file, output)
    print("\n".join(report.lines()))
    print(
        f"{output}: {len(report.tensors)} tensors written, {len(report.left_out)} entries left out"
    )
    return DONE


def push(run: str, name: str, *, private: bool = False) -> int:
    """Publish a model folder on the Hugging Face Hub.

    Args:
        run: the run or model folder.
        name: user/name on the hub; the login of huggingface_hub is used.
        private: create the repository for your own eyes.
    """
    from fervor import hub

    print(hub.push(run, name, private=private))
    return DONE
