"""The methods by name.

The next method is one file here and one line in `METHODS`.
"""

from fervor.methods.base import Method
from fervor.methods.classifier import Classifier
from fervor.methods.ke import KE
from fervor.methods.lacovl.method import LaCoVL
from fervor.methods.mpa import MPA
from fervor.methods.vlm import VLM


METHODS: dict[str, type[Method]] = {
    "classifier": Classifier,
    "ke": KE,
    "mpa": MPA,
    "lacovl": LaCoVL,
    "vlm": VLM,
}
