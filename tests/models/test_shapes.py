"""Shapes in signatures are checked in every module of the two packages, and a wrong one is seen."""

import inspect
import pkgutil
from importlib import import_module

import jaxtyping
import pytest
import torch

import fervor.methods
import fervor.models
from fervor.methods.losses import text_similarity_loss
from fervor.models.image.base import from_map, resized


MODULES = [
    module.name
    for package in (fervor.models, fervor.methods)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_functions_with_shapes_are_checked(name: str) -> None:
    module = import_module(name)
    found = [part for _, part in inspect.getmembers(module) if inspect.isfunction(part)]
    shaped = [
        function
        for function in found
        if function.__module__ == name and "Tensor, '" in str(inspect.signature(function))
    ]
    assert all(hasattr(function, "__wrapped__") for function in shaped), shaped


def test_a_wrong_shape_is_seen() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        from_map(torch.zeros(2, 3, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        resized(torch.zeros(3, 4, 4), 2)
    with pytest.raises(jaxtyping.TypeCheckError):
        text_similarity_loss(torch.zeros(2, 3), torch.zeros(2, 4))
