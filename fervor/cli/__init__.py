"""The commands of `fervor`: short functions in a dict, whose parameters are the options."""

from collections.abc import Callable

from fervor.cli.research.convert import convert
from fervor.cli.research.data import data_align, data_check
from fervor.cli.research.evaluate import evaluate
from fervor.cli.research.export import export
from fervor.cli.research.push import push
from fervor.cli.research.reproduce import reproduce
from fervor.cli.research.robustness import robustness
from fervor.cli.research.sweep import sweep
from fervor.cli.research.train import train
from fervor.cli.using.describe import describe
from fervor.cli.using.explain import explain
from fervor.cli.using.models import models
from fervor.cli.using.predict import predict
from fervor.cli.using.serve import serve


COMMANDS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "explain": explain,
    "serve": serve,
    "train": train,
    "evaluate": evaluate,
    "robustness": robustness,
    "reproduce": reproduce,
    "sweep": sweep,
    "data check": data_check,
    "data align": data_align,
    "export": export,
    "convert": convert,
    "push": push,
    "describe": describe,
    "models": models,
}
