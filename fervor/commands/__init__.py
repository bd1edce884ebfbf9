"""The commands of `fervor`: short functions in a dict, whose parameters are the options."""

from collections.abc import Callable

from fervor.commands import research, using


COMMANDS: dict[str, Callable[..., int]] = {
    "predict": using.predict,
    "explain": using.explain,
    "serve": using.serve,
    "train": research.train,
    "evaluate": research.evaluate,
    "robustness": research.robustness,
    "reproduce": research.reproduce,
    "sweep": research.sweep,
    "data check": research.data_check,
    "data align": research.data_align,
    "export": research.export,
    "convert": research.convert,
    "push": research.push,
    "describe": using.describe,
    "models": using.models,
}
