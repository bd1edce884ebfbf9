"""The command line: short functions in a dict, whose parameters are the options."""

import importlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fervor import __version__
from fervor.config import Data, Run
from fervor.errors import FervorError, UsageError


DONE, FOUND, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def predict(
    inputs: list[str],
    *,
    model: str = "embedded",
    faces: Literal["all", "largest", "precropped"] = "all",
    output: str = "",
    annotate: str = "",
    every: int = 1,
    start: float = 0.0,
    end: float = math.inf,
    whole_every: int = 10,
    smooth: bool = False,
    neutral: str = "",
    batch_size: int = 32,
    threads: int = 0,
    abstain: float = 0.0,
    offline: bool = False,
    strict: bool = False,
) -> int:
    """Recognise the expression that each face shows, in pictures, folders, videos or a webcam.

    Args:
        inputs: pictures, videos, folders, which are searched for both, or webcam:0.
        model: a model folder; embedded for the one that fervor ships.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        output: a file of rows that ends in .jsonl, .csv or .parquet; without it a readable table.
        annotate: a folder for the pictures and videos with what was found drawn into them.
        every: of a video, take every N-th frame.
        start: of a video, seconds from its start to the first frame that is taken.
        end: of a video or webcam, seconds at which to stop.
        whole_every: of a video, look for new faces in the whole frame at every N-th.
        smooth: add columns smooth_<class> to the output, smoothed over each track.
        neutral: correct by how a face looks at rest: a picture of it, or auto to learn it.
        batch_size: pictures and faces run together; the answers do not depend on it.
        threads: threads of each network; 0 for all cores.
        abstain: a face whose highest probability is below gets the label "uncertain".
        offline: never touch the network, whatever the model would like to fetch.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from fervor import media
    from fervor import predict as work
    from fervor.inference import Predictor

    span = media.Span(every, start, end)
    sources = media.find(inputs)
    outputs = work.Outputs(output, annotate, smooth=smooth, sources=sources)
    predictor = Predictor(
        model,
        faces=faces,
        threads=threads,
        batch_size=batch_size,
        abstain=abstain,
        whole_every=whole_every,
        neutral=neutral or None,
    )
    counts = work.run(predictor, sources, outputs, span=span)
    if output:
        print(work.summary(output, counts))
    return FOUND if strict and counts["no_face"] + counts["error"] else DONE


def train(run: Run, *, resume: str = "") -> int:
    """Train a model into a run folder.

    Args:
        run: a recipe: a name such as ke/ferplus-mobilenet, or a YAML file; options override it.
        resume: run folder of an interrupted run that goes on where it stopped.
    """
    training = _with_torch("fervor.training")
    # hardware notes, product tips, and warnings about Lightning's own code
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if resume:
        run = replace(run, output=resume)
    with _notes("fervor.training"):
        print(training.train(run, resume=bool(resume)))
    return DONE


def evaluate(
    *,
    model: str,
    data: Data,
    split: str = "test",
    output: str = "results",
    exclude_duplicates: bool = False,
) -> int:
    """Measure a model on a data set and write its result file.

    Args:
        model: a run folder or model folder; embedded for the one that fervor ships.
        data: which pictures.
        split: train, valid or test.
        output: folder of result files.
        exclude_duplicates: leave out pictures that also stand in train, pixel by pixel.
    """
    path, result = _with_torch("fervor.evaluation").evaluate(
        model, data, split=split, output=output, exclude_duplicates=exclude_duplicates
    )
    low, high = result["accuracy_interval"]
    print(f"accuracy             {result['accuracy']:.2%} ({low:.2%} to {high:.2%}, 95 %)")
    print(f"                     {result['correct']} of {result['count']} pictures")
    print(f"mean class accuracy  {result['mean_class_accuracy']:.2%}")
    print(f"macro F1             {result['macro_f1']:.2%}")
    print(f"calibration error    {result['calibration_error']:.2%}")
    for title, text in _left_out(result):
        print(f"{title:21}{text}")
    print(f"written to           {path}")
    return DONE


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


def export(*, model: str, output: str, half: bool = False) -> int:
    """Write a trained model as model.onnx and model.json, checked against torch.

    Args:
        model: the run folder.
        output: the model folder that is written.
        half: store kernels and matrices in half precision; they are computed with in single.
    """
    print(_with_torch("fervor.export").export(model=model, output=output, half=half))
    return DONE


def describe(
    *,
    labels: str,
    endpoint: str,
    model: str,
    output: str = "descriptions.json",
    seed: int = 0,
    timeout: float = 60.0,
    tries: int = 4,
    cache: str = "runs/cache/describe",
) -> int:
    """Ask a language model what distinguishes each expression, for options.descriptions of mpa.

    Args:
        labels: names of the expressions, separated by commas.
        endpoint: root of an OpenAI-compatible interface, such as http://localhost:8080/v1; its key,
            where it needs one, is taken from the environment variable FERVOR_API_KEY.
        model: the model's name there.
        output: the file of descriptions that is written.
        seed: sent with each question, for endpoints that heed it.
        timeout: seconds to wait for an answer.
        tries: how often a question is asked before it is given up.
        cache: folder of the answers so far; a question that it holds is not asked again.
    """
    from fervor.describe import Endpoint
    from fervor.describe import describe as ask

    where = Endpoint(endpoint, model, seed=seed, timeout=timeout, tries=tries)
    texts = ask(labels.split(","), where, output=Path(output), cache=Path(cache))
    for label, text in texts.items():
        print(f"{label}: {text}")
    print(f"written to {output}")
    return DONE


def models() -> int:
    """List the weights that fervor ships, and what a checkpoint needs."""
    from fervor import inventory

    weights = inventory.shipped()
    for weight in weights:
        print(f"{weight.name}\n  licence     {weight.licence}")
        print(f"  data terms  {weight.data_terms}")
        if weight.needs:
            print(f"  made of     {weight.needs}")
        verified = "verified" if weight.intact else "DIFFERS: reinstall fervor"
        print(f"  sha256      {weight.sha256}  {verified}")
    print(
        "\nWhat a checkpoint needs\n"
        "  to predict                          model.onnx and model.json (from fervor export)\n"
        "  to evaluate, export and start from  weights.safetensors and model.json; "
        'pip install "fervor[train]"\n'
        "  its text tower                      nothing: its class vectors are inside\n"
        "  frozen towers (method mpa)          found by name and checksum, see model.json; an "
        "export holds them"
    )
    return DONE if all(weight.intact for weight in weights) else FOUND


COMMANDS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "train": train,
    "evaluate": evaluate,
    "data check": data_check,
    "data align": data_align,
    "export": export,
    "describe": describe,
    "models": models,
}


def main(given: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 0 (done), 1 (problem found), 2 (wrong use), 130 (stopped)."""
    words = list(sys.argv[1:] if given is None else given)
    command = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), "")
    try:
        return _run(command, words)
    except (FervorError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our rows has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return DONE
        print(f"fervor {command}".rstrip() + f": {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(command: str, words: list[str]) -> int:
    if words in (["--help"], ["-h"]):
        print(_help())
        return DONE
    if words == ["--version"]:
        print(f"fervor {__version__}")
        return DONE
    if not command:
        group = [name for name in COMMANDS if words and name.startswith(f"{words[0]} ")]
        given = " ".join(words[: 2 if group else 1])
        raise UsageError(
            (f"unknown command {given}" if given else "no command")
            + f": expected one of {', '.join(group or COMMANDS)}, --help, --version"
        )
    from fervor.commands import arguments_of

    function = COMMANDS[command]
    return function(**arguments_of(command, function, words[len(command.split()) :]))


def _help() -> str:
    lines = [
        f"  {name:12}{(function.__doc__ or '').splitlines()[0]}"
        for name, function in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: fervor COMMAND ...",
            "",
            "Facial expression recognition with vision-language models.",
            "",
            *lines,
            "",
            "fervor COMMAND --help lists a command's options; fervor --version prints the version.",
        ]
    )


def _with_torch(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fervor"):
            raise
        raise UsageError(
            f'needs {error.name}, which is not installed: pip install "fervor[train]"'
        ) from error


@contextmanager
def _notes(name: str) -> Iterator[None]:
    """What a module has to say about its work, on the error stream."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _one_line(error: FervorError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
