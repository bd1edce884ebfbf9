"""The command line: short functions in a dict, whose parameters are the options."""

import importlib
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    batch_size: int = 32,
    threads: int = 0,
    abstain: float = 0.0,
    offline: bool = False,
    strict: bool = False,
) -> int:
    """Recognise the expression that each face shows, in pictures and folders of pictures.

    Args:
        inputs: pictures, or folders, which are searched for pictures.
        model: a model folder; embedded for the one that fervor ships.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        output: a file of rows that ends in .jsonl, .csv or .parquet; without it a readable table.
        batch_size: pictures and faces run together; the answers do not depend on it.
        threads: threads of each network; 0 for all cores.
        abstain: a face whose highest probability is below gets the label "uncertain".
        offline: never touch the network, whatever the model would like to fetch.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from fervor import media, tables
    from fervor.inference import Predictor

    if output:
        tables.check_output(Path(output))
    sources = media.find(inputs)
    predictor = Predictor(
        model, faces=faces, threads=threads, batch_size=batch_size, abstain=abstain
    )
    statuses: Counter[str] = Counter()
    table: tables.Writer
    if output:
        table = tables.open_table(Path(output), predictor.labels)
    else:
        table = tables.TextTable(sys.stdout, sources)
    with table, _progress(len(sources) if output else None) as bar:
        for answer in predictor.stream(media.read(sources)):
            table.write(answer)
            statuses.update(prediction.status for prediction in answer)
            if bar is not None:
                bar.update()
    if output:
        print(
            f"{output}: {len(sources)} pictures, {statuses['ok']} faces, "
            f"{statuses['no_face']} without a face, {statuses['error']} unreadable"
        )
    return FOUND if strict and statuses["no_face"] + statuses["error"] else DONE


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


def evaluate(*, model: str, data: Data, split: str = "test", output: str = "results") -> int:
    """Measure a model on a data set and write its result file.

    Args:
        model: a run folder or model folder; embedded for the one that fervor ships.
        data: which pictures.
        split: train, valid or test.
        output: folder of result files.
    """
    path, result = _with_torch("fervor.evaluation").evaluate(
        model, data, split=split, output=output
    )
    low, high = result["accuracy_interval"]
    print(f"accuracy             {result['accuracy']:.2%} ({low:.2%} to {high:.2%}, 95 %)")
    print(f"                     {result['correct']} of {result['count']} pictures")
    print(f"mean class accuracy  {result['mean_class_accuracy']:.2%}")
    print(f"macro F1             {result['macro_f1']:.2%}")
    print(f"calibration error    {result['calibration_error']:.2%}")
    print(f"written to           {path}")
    return DONE


def export(*, model: str, output: str, half: bool = False) -> int:
    """Write a trained model as model.onnx and model.json, checked against torch.

    Args:
        model: the run folder.
        output: the model folder that is written.
        half: store kernels and matrices in half precision; they are computed with in single.
    """
    print(_with_torch("fervor.export").export(model=model, output=output, half=half))
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
        "  its text tower                      nothing: its class vectors are inside"
    )
    return DONE if all(weight.intact for weight in weights) else FOUND


COMMANDS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "models": models,
}


def main(given: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 0 (done), 1 (problem found), 2 (wrong use), 130 (stopped)."""
    words = list(sys.argv[1:] if given is None else given)
    command = words[0] if words and words[0] in COMMANDS else ""
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
        given = f"unknown command {words[0]}" if words else "no command"
        raise UsageError(f"{given}: expected one of {', '.join(COMMANDS)}, --help, --version")
    from fervor.commands import arguments_of

    function = COMMANDS[command]
    return function(**arguments_of(command, function, words[1:]))


def _help() -> str:
    lines = [
        f"  {name:10}{(function.__doc__ or '').splitlines()[0]}"
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


def _progress(total: int | None) -> AbstractContextManager[Any]:
    """A bar on a terminal's error stream, once the work takes longer than two seconds."""
    if total is None or not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(total=total, unit=" pictures", delay=2, leave=False)
    return bar


def _one_line(error: FervorError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
