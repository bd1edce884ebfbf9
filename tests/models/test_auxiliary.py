"""Landmark network and teacher: built by name, frozen, and refused where they make no sense."""

import pytest
import torch

from fervor.config import Encoder, Landmarks, Teacher
from fervor.errors import ModelError, UsageError
from fervor.methods import method_class
from fervor.models.auxiliary import build_auxiliary, build_teacher
from fervor.models.image import build_image_encoder
from fervor.models.mobilefacenet import LandmarkEncoder, MobileFaceNet
from tests.support import tiny


WANTED = ("landmarks", "teacher")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Landmarks, Teacher]:
    """A landmark file and a CLIP, both tiny or random."""
    root = tmp_path_factory.mktemp("companions")
    torch.manual_seed(0)
    torch.save({"state_dict": MobileFaceNet().state_dict()}, root / "landmarks.pth.tar")
    clip = tiny.save_clip(root / "clip")
    landmarks = Landmarks("mobilefacenet", str(root / "landmarks.pth.tar"))
    return landmarks, Teacher("clip", clip, 32)


def test_what_is_named_is_built_and_frozen(files: tuple[Landmarks, Teacher]) -> None:
    found = build_auxiliary("lacovl", WANTED, *files)
    assert isinstance(found["landmarks"], LandmarkEncoder)
    for network in found.values():
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert build_auxiliary("lacovl", WANTED, Landmarks(), Teacher()) == {}
    assert build_auxiliary("ke", (), Landmarks(), Teacher()) == {}


@torch.no_grad()
def test_a_teacher_s_tokens_are_those_before_its_projection(
    files: tuple[Landmarks, Teacher],
) -> None:
    teacher = build_teacher(files[1])
    plain = build_image_encoder(Encoder("clip", files[1].weights, 32)).eval()
    image = torch.rand(2, 3, 32, 32)
    found, expected = teacher(image), plain(image)
    assert (teacher.width, plain.width) == (16, 12)
    assert found.tokens.shape == (2, 16, 16)
    projection = plain.get_submodule("projection")
    torch.testing.assert_close(projection(found.tokens), expected.tokens)
    torch.testing.assert_close(projection(found.pooled), expected.pooled)


def test_a_teacher_may_be_any_image_encoder() -> None:
    teacher = build_teacher(Teacher("face-mobilenet", size=96))
    assert teacher(torch.rand(1, 3, 96, 96)).tokens.shape == (1, 36, teacher.width)


def test_what_makes_no_sense_is_one_line(files: tuple[Landmarks, Teacher]) -> None:
    landmarks, teacher = files
    with pytest.raises(
        UsageError, match=r"method ke takes no landmarks: set landmarks\.name to none"
    ):
        build_auxiliary("ke", method_class("ke").auxiliary, landmarks, Teacher())
    with pytest.raises(UsageError, match="method classifier takes no teacher"):
        build_auxiliary("classifier", (), Landmarks(), teacher)
    with pytest.raises(UsageError, match=r"teacher ir50 has random weights.*--teacher\.weights"):
        build_auxiliary("lacovl", WANTED, landmarks, Teacher("ir50", "", 32))
    with pytest.raises(UsageError, match=r"teacher vlm has random weights.*--teacher\.weights"):
        build_auxiliary("lacovl", WANTED, landmarks, Teacher("vlm", "embedded", 112))
    with pytest.raises(UsageError, match=r"landmarks mobilefacenet has random.*--landmarks\.w"):
        build_auxiliary("lacovl", WANTED, Landmarks("mobilefacenet", "random"), teacher)
    with pytest.raises(UsageError, match="unknown encoder 'clpi'"):
        build_auxiliary("lacovl", WANTED, Landmarks(), Teacher("clpi"))
    with pytest.raises(ModelError, match="nowhere is no folder") as caught:
        build_auxiliary("lacovl", WANTED, Landmarks(), Teacher("clip", "nowhere"))
    assert "\n" not in str(caught.value)
