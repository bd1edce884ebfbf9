"""The command `fervor train`."""

from dataclasses import replace

from fervor.cli.notes import notes
from fervor.config import Run
from fervor.errors import DONE
from fervor.plugins import missing_extra


def train(run: Run, *, resume: str = "", clip: str = "") -> int:
    """Train a model into a run folder.

    Args:
        run: a recipe: a name such as ke/ferplus-mobilenet, or a YAML file; options override it.
        resume: run folder of an interrupted run that goes on where it stopped.
        clip: hub name or folder of the CLIP model whose towers the run takes, all of one model.
    """
    if clip:
        run = run.with_clip(clip)
    with missing_extra("train"):
        from fervor.training.trainer import train as training
    if resume:
        run = replace(run, output=resume)
    with notes("fervor.training"):
        print(training(run, resume=bool(resume)))
    return DONE
