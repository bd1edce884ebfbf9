"""From files to batches: reading, the evaluation's resize, augmentation, sampling."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from fervor.config import AUGMENT_RANGES, Augment, Data, Encoder, Optim, Run
from fervor.data.augmentation import Augmentation, laid_anew
from fervor.data.batch import Batch, targets
from fervor.data.datasets import Sample
from fervor.data.image_set import ImageSet, hold_out, read_images
from fervor.data.loading import TrainingBatches, evaluation_batches, training_loader
from fervor.data.samplers import EpochSampler, Key, seeded
from fervor.errors import DataError, UsageError
from fervor.faces.alignment import crop
from fervor.faces.detector import FaceDetector, select
from fervor.io.image import to_input
from fervor.labels import EXPRESSIONS
from tests.support.drawn import face, pictures


LABELS = ("neutral", "happiness", "anger")
STRONG = Augment(
    rotation=20, scale=0.2, shift=0.1, brightness=0.2, contrast=0.3, gamma=0.3, blur=0.5
)
NONE = Augment(flip=0, crop_padding=0, erase=0)
EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"


def saved(folder: Path, name: str, picture: np.ndarray) -> str:
    Image.fromarray(picture).save(folder / name)
    return str(folder / name)


def coloured(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A grey file with votes, a grey file without, and pixels out of a table."""
    return [
        Sample(saved(tmp_path, "a.png", face("anger")), "anger", {"anger": 6.0, "neutral": 2.0}),
        Sample(saved(tmp_path, "b.png", face("neutral")), "neutral"),
        Sample("", "happiness", {}, face("happiness").tobytes(), 48),
    ]


def test_grey_pictures_stay_as_they_are(samples: list[Sample]) -> None:
    read = read_images(samples, LABELS, size=112)
    assert read.images.shape == (3, 1, 48, 48)
    for image, name in zip(read.images, ("anger", "neutral", "happiness"), strict=True):
        assert np.array_equal(image[0], face(name))
    assert read.label.tolist() == [2, 0, 1]
    assert read.votes.tolist() == [[0.25, 0, 0.75], [1, 0, 0], [0, 1, 0]]
    assert read.sources == (samples[0].path, samples[1].path, "")
    assert read.counts() == [1, 1, 1]


@pytest.mark.parametrize("scale", [1e38, 1e-50, 1e300])
def test_votes_are_parts_of_their_sum_at_any_scale(scale: float, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", face("anger"))
    read = read_images(
        [Sample(path, "anger", {"anger": 6 * scale, "neutral": 2 * scale})], LABELS, size=112
    )
    assert read.votes.tolist() == [[0.25, 0, 0.75]]


def test_subset_keeps_the_order_asked_for(samples: list[Sample]) -> None:
    read = read_images(samples, LABELS, size=112)
    part = read.subset(torch.tensor([2, 0]))
    assert part.label.tolist() == [1, 2]
    assert part.sources == (read.sources[2], read.sources[0])
    assert torch.equal(part.take(torch.arange(2)), read.images[[2, 0]])
    assert torch.equal(part.subset(torch.tensor([1])).take(torch.tensor([0])), read.images[[0]])
    assert torch.equal(part.votes, read.votes[[2, 0]])
    assert part.counts() == [0, 1, 1]


SHAPES = {
    "one size": [(40, 40), (40, 40)],
    "not square": [(30, 40), (30, 40)],
    "several sizes": [(30, 30), (64, 50), (20, 70)],
    "larger": [(100, 90)],
    "the network's": [(64, 64), (64, 64)],
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("grey", [False, True])
def test_evaluation_sees_what_predict_sees(case: str, grey: bool, tmp_path: Path) -> None:
    originals = [coloured(*shape) for shape in SHAPES[case]]
    originals = [array[:, :, 0] if grey else array for array in originals]
    found = [
        Sample(saved(tmp_path, f"{number}.png", array), "anger")
        for number, array in enumerate(originals)
    ]
    read = read_images(found, LABELS, size=64)
    expected = np.stack([to_input(array, 64) for array in originals])
    for batch_size in (1, 2, 128):
        batches = list(evaluation_batches(read, size=64, batch_size=batch_size))
        assert np.array_equal(np.concatenate([batch.image.numpy() for batch in batches]), expected)


def test_one_coloured_picture_makes_all_coloured(tmp_path: Path) -> None:
    grey, colour = coloured(48, 48)[:, :, 0], coloured(48, 48)
    names = [saved(tmp_path, "a.png", grey), saved(tmp_path, "b.png", colour)]
    read = read_images([Sample(name, "anger") for name in names], LABELS, size=64)
    assert read.images.shape == (2, 3, 48, 48)
    assert np.array_equal(read.images[0, 1], grey)
    assert np.array_equal(read.images[1].permute(1, 2, 0), colour)


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"not a picture",
    "truncated": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_picture_is_named(case: str, tmp_path: Path) -> None:
    path = Path(saved(tmp_path, "a.jpg", face("anger")))
    path.write_bytes(UNREADABLE[case](path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.jpg cannot be read as a picture") as caught:
        read_images([Sample(str(path), "anger")], LABELS, size=64)
    assert "\n" not in str(caught.value)


def test_nothing_to_read_and_unknown_classes(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="holds no pictures: choose another split or protocol"):
        read_images([], LABELS, size=64)
    with pytest.raises(DataError, match=r"holds \['anger'\], the model knows"):
        read_images(samples, LABELS[:2], size=64)


def test_the_largest_face_is_cut_out_as_predict_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = saved(tmp_path, "nobody.png", np.full((200, 200, 3), 90, np.uint8))
    found = [Sample(str(EXAMPLE), "happiness"), Sample(nobody, "neutral")]
    with caplog.at_level(logging.INFO):
        read = read_images(found, LABELS, size=112, faces="largest")
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    cut = crop(photo, select(FaceDetector().detect([photo])[0], "largest")[0], 48)
    assert np.array_equal(read.take(torch.tensor([0])).permute(0, 2, 3, 1).numpy(), cut[None])
    assert (read.label.tolist(), read.sources) == ([1], (str(EXAMPLE),))
    assert "left out, without a face: 1 of 2 pictures" in caplog.text
    assert nobody in caplog.text
    finer = read_images(found[:1], LABELS, size=112, faces="largest", crop=96)
    cut = crop(photo, select(FaceDetector().detect([photo])[0], "largest")[0], 96)
    assert np.array_equal(finer.images[0].permute(1, 2, 0).numpy(), cut)
    with pytest.raises(DataError, match="no face was found in any of 1 picture"):
        read_images(found[1:], LABELS, size=112, faces="largest")


# Training batches


def run(**changes: object) -> Run:
    settings = {"augment": STRONG, "encoder": Encoder(size=56), "optim": Optim(batch_size=4)}
    return Run(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def faces() -> ImageSet:
    return pictures(LABELS, 6)


def equal(first: Batch, second: Batch) -> bool:
    return all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


KEY = Key(1, 2, (5, 0, 9))


def test_a_batch_is_a_function_of_seed_epoch_and_step(faces: ImageSet) -> None:
    batches = TrainingBatches(faces, run().pipeline)
    first = batches[KEY]
    torch.rand(7)
    assert equal(first, batches[KEY])
    assert equal(first, TrainingBatches(faces, run().pipeline)[KEY])
    others = [batches[KEY._replace(epoch=2)], batches[KEY._replace(step=3)]]
    others.append(TrainingBatches(faces, run(seed=1).pipeline)[KEY])
    assert not any(torch.equal(first.image, other.image) for other in others)
    assert first.label.tolist() == faces.label[[5, 0, 9]].tolist()


def test_a_batch_leaves_the_global_generator_alone(faces: ImageSet) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    TrainingBatches(faces, run().pipeline)[KEY]
    assert torch.equal(torch.rand(1), expected)


def test_a_batch_seeds_no_graphics_card(faces: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it draws is still what the seed alone makes of torch's generator."""
    cuda, xpu = Mock(), Mock()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", cuda)
    monkeypatch.setattr(torch.xpu, "manual_seed_all", xpu)
    TrainingBatches(faces, run().pipeline)[KEY]
    with seeded(5):
        found = torch.rand(4)
    assert not cuda.called and not xpu.called
    torch.manual_seed(5)
    assert cuda.called  # the watch is at the right place
    assert torch.equal(found, torch.rand(4))


@pytest.mark.parametrize(
    "augment", [STRONG, NONE, dataclasses.replace(STRONG, mixup=0.4)], ids=["strong", "none", "mix"]
)
def test_batches_are_colour_in_range_of_the_encoders_size(
    augment: Augment, faces: ImageSet
) -> None:
    image, label, target, positive, *_ = TrainingBatches(faces, run(augment=augment).pipeline)[KEY]
    assert positive is None
    assert image.shape == (3, 3, 56, 56)
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    assert image.std() > 0.1
    assert label.dtype == torch.int64
    torch.testing.assert_close(target.sum(1), torch.ones(3))


def test_workers_change_nothing(faces: ImageSet) -> None:
    def batches(workers: int) -> list[list[Batch]]:
        settings = run(workers=workers)
        loader = training_loader(
            TrainingBatches(faces, settings.pipeline),
            faces,
            settings.pipeline,
            batch_size=settings.optim.batch_size,
            workers=settings.workers,
        )
        found = []
        for epoch in range(2):
            assert isinstance(loader.sampler, EpochSampler)
            loader.sampler.set_epoch(epoch)
            found.append(list(loader))
        return found

    alone, helped = batches(0), batches(2)
    for first, second in zip(alone, helped, strict=True):
        assert len(first) == len(second) == 4
        assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(alone[0][0].image, alone[1][0].image)


def test_mixup_mixes_pictures_and_targets_alike(faces: ImageSet) -> None:
    mixing = TrainingBatches(faces, run(augment=dataclasses.replace(NONE, mixup=1.0)).pipeline)
    key = Key(0, 0, (0, 1, 2))  # one picture of each class
    plain = TrainingBatches(faces, run(augment=NONE).pipeline)[key].image
    weights = []
    for step in range(4):
        mixed = mixing[key._replace(step=step)]
        expected = torch.einsum("bc, c...->b...", mixed.target, plain)
        torch.testing.assert_close(mixed.image, expected, atol=1e-5, rtol=0)
        assert mixed.label.tolist() == mixed.target.argmax(1).tolist() == [0, 1, 2]
        assert torch.equal(mixed.mixture, mixed.target)  # one vote each: what is in it is its aim
        weights += mixed.target.amax(1).tolist()
    assert min(weights) >= 0.5
    assert any(fraction < 0.95 for fraction in weights)


def test_targets(faces: ImageSet) -> None:
    label = torch.tensor([2, 0])
    votes = torch.tensor([[0.25, 0, 0.75], [1.0, 0, 0]])
    assert targets(label, votes, "majority").tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(targets(label, votes, "cross_entropy"), votes)


def test_probability_draws_a_class_from_the_votes() -> None:
    votes = torch.tensor([[0.25, 0, 0.75]]).expand(4000, -1)
    torch.manual_seed(0)
    drawn = targets(torch.full((4000,), 2), votes, "probability")
    assert torch.equal(drawn.sum(1), torch.ones(4000))
    assert drawn[:, 1].sum() == 0
    assert float(drawn[:, 0].mean()) == pytest.approx(0.25, abs=0.03)  # 4 deviations


@pytest.mark.parametrize("target", ["majority", "probability", "cross_entropy"])
def test_batches_aim_at_the_target_asked_for(target: str, faces: ImageSet) -> None:
    votes = torch.full_like(faces.votes, 0.1) + 0.7 * faces.votes
    shared = dataclasses.replace(faces, votes=votes)
    batches = TrainingBatches(shared, run(data=Data(target=target)).pipeline)  # type: ignore[arg-type]
    found = torch.cat([batches[KEY._replace(step=step)].target for step in range(40)])
    chosen = list(KEY.indices) * 40
    if target == "cross_entropy":
        assert torch.equal(found, votes[chosen])
    elif target == "majority":
        assert torch.equal(found, faces.votes[chosen])
    else:
        fraction = float((found == faces.votes[chosen]).all(1).float().mean())
        assert 0.6 < fraction < 0.95  # 0.8 expected


# Augmentation


def images(count: int = 3, channels: int = 1) -> torch.Tensor:
    return pictures(LABELS, count).images[:count].expand(-1, channels, -1, -1)


def test_without_changes_only_the_resize_is_left() -> None:
    found = Augmentation(NONE, 56)(images())
    expected = F.interpolate(images() / 255, (56, 56), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    resized = torch.stack([torch.from_numpy(to_input(i[0].numpy(), 56))[:1] for i in images()])
    torch.testing.assert_close(found, resized, atol=1.5 / 255, rtol=0)  # PIL rounds, twice


def test_flip_mirrors() -> None:
    plain = Augmentation(NONE, 56)(images())
    flipped = Augmentation(dataclasses.replace(NONE, flip=1.0), 56)(images())
    torch.testing.assert_close(flipped, plain.flip(3), atol=1e-5, rtol=0)


def test_rotation_turns_about_the_centre() -> None:
    """A dot at distance 16 from the centre stays there, and within the angle asked for."""
    dots = torch.zeros(200, 1, 48, 48, dtype=torch.uint8)
    dots[:, :, 23:25, 39:41] = 255
    torch.manual_seed(0)
    turned = Augmentation(dataclasses.replace(NONE, rotation=30), 48)(dots)
    place = torch.arange(48) + 0.5 - 24
    weight = turned[:, 0] / turned[:, 0].sum((1, 2), keepdim=True)
    y, x = (weight.sum(2) * place).sum(1), (weight.sum(1) * place).sum(1)
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 16.0), atol=0.1, rtol=0)
    angle = torch.atan2(y, x).rad2deg()
    assert 25 < float(angle.max()) < 30.5
    assert -30.5 < float(angle.min()) < -25


def test_shift_and_scale_keep_their_bounds() -> None:
    square = torch.zeros(200, 1, 48, 48, dtype=torch.uint8)
    square[:, :, 16:32, 16:32] = 255
    torch.manual_seed(0)
    shifted = Augmentation(dataclasses.replace(NONE, shift=0.1), 48)(square)[:, 0]
    place = torch.arange(48) + 0.5 - 24
    x = (shifted.sum(1) * place).sum(1) / shifted.sum((1, 2))
    assert 0.08 * 48 < float(x.abs().max()) <= 0.1 * 48 + 0.05
    zoomed = Augmentation(dataclasses.replace(NONE, scale=0.25), 48)(square)[:, 0]
    side = zoomed.sum((1, 2)).sqrt()
    assert 16 / 1.26 < float(side.min()) < 16 / 1.2
    assert 16 * 1.2 < float(side.max()) < 16 * 1.26


FIRST_VERSION = [0.4327, 0.2879, 0.8523]
"""Mean, deviation and one pixel of a batch augmented by version 0.1, commit eeee50c."""

STRENGTHS = {
    "flip": 1.0,
    "rotation": 15.0,
    "scale": 0.2,
    "shift": 0.2,
    "crop_padding": 6,
    "crop_area": 0.5,
    "erase": 1.0,
    "brightness": 0.2,
    "contrast": 0.3,
    "gamma": 0.4,
    "blur": 1.0,
    "low_resolution": 1.0,
    "jpeg": 1.0,
    "sharpen": 1.0,
    "colour": 0.3,
    "jitter": 0.05,
    "partial": 1.0,
    "occlude": 1.0,
}


def test_every_strength_is_tried() -> None:
    bounds = {"erase_area", "low_resolution_side", "partial_area", "mixup"}
    assert {field.name for field in dataclasses.fields(Augment)} - bounds == set(STRENGTHS)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_strength_changes_pictures(name: str) -> None:
    torch.manual_seed(1)
    many = images(12)
    boxes = torch.tensor([[0.0, 0.3, 0.4, 0.2]]).expand(12, 1, 4)
    changed = Augmentation(dataclasses.replace(NONE, **{name: STRENGTHS[name]}), 56)(many, boxes)
    difference = (changed - Augmentation(NONE, 56)(many)).abs()
    assert difference.amax((1, 2, 3)).max() > 0.05
    if name == "erase":  # one rectangle of the area asked for, the rest untouched
        area = (difference > 1e-3).flatten(1).float().mean(1)
        assert 0.005 < float(area.min()) and float(area.max()) <= 0.26


def test_every_range_is_that_of_what_can_be_computed() -> None:
    """Each setting at both ends of its range, together with what it belongs to."""
    assert set(AUGMENT_RANGES) == {field.name for field in dataclasses.fields(Augment)}
    together = dict.fromkeys(("erase", "low_resolution", "partial"), 1.0)
    boxes = torch.tensor([[0.0, 0.3, 0.4, 0.2]]).expand(3, 1, 4)
    for name, ends in AUGMENT_RANGES.items():
        for value in ends:
            augment = dataclasses.replace(NONE, **{**together, name: value})
            Run(augment=augment).check()
            changed = Augmentation(augment, 56)(images(), boxes)
            assert changed.shape == (3, 1 if not augment.colour else 3, 56, 56), name
            assert changed.isfinite().all(), (name, value)


@settings(max_examples=15)
@given(
    st.floats(0, 1), st.floats(0, 90), st.floats(0, 1), st.sampled_from([1, 3]), st.integers(24, 70)
)
def test_any_augmentation_gives_pictures(
    fraction: float, rotation: float, strength: float, channels: int, size: int
) -> None:
    augment = Augment(
        flip=fraction,
        rotation=rotation,
        scale=strength,
        shift=strength,
        erase=fraction,
        brightness=strength,
        contrast=strength,
        gamma=strength,
        blur=fraction,
    )
    found = Augmentation(augment, size)(images(2, channels))
    assert found.shape == (2, channels, size, size)
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


def test_half_of_a_batch_is_cropped_at_places_of_its_own() -> None:
    """Where a dot of each picture lies after the crop."""
    dots = torch.zeros(200, 1, 48, 48, dtype=torch.uint8)
    dots[:, :, 24, 24] = 255
    torch.manual_seed(0)
    cropped = Augmentation(dataclasses.replace(NONE, crop_padding=4), 48)(dots)[:, 0]
    places = cropped.flatten(1).argmax(1)
    rows, columns = places // 48, places % 48
    unchanged = (rows == 24) & (columns == 24)
    assert 80 < int(unchanged.sum()) < 125
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(20, 29))


def test_brightness_is_added() -> None:
    """As its setting says; the ColorJitter of other code multiplies."""
    halves = torch.full((200, 1, 48, 48), 102, dtype=torch.uint8)
    halves[..., 24:] = 153
    torch.manual_seed(0)
    changed = Augmentation(dataclasses.replace(NONE, brightness=0.2), 48)(halves)
    left, right = changed[:, 0, 0, 0], changed[:, 0, 0, -1]
    torch.testing.assert_close(right - left, torch.full((200,), 0.2))
    assert 0.2 <= float(left.min()) < 0.22 and 0.58 < float(left.max()) <= 0.6001


def test_contrast_changes_spread_and_not_brightness() -> None:
    """Each picture has a factor of its own, within the strength asked for."""
    halves = torch.full((200, 1, 48, 48), 102, dtype=torch.uint8)
    halves[..., 24:] = 153
    torch.manual_seed(0)
    changed = Augmentation(dataclasses.replace(NONE, contrast=0.4), 48)(halves)
    torch.testing.assert_close(changed.mean((1, 2, 3)), torch.full((200,), 0.5))
    factor = (changed[:, 0, 0, -1] - changed[:, 0, 0, 0]) / 0.2
    assert 0.6 <= float(factor.min()) < 0.65 and 1.35 < float(factor.max()) <= 1.4001
    assert len(factor.unique()) > 150


def test_a_crop_by_area_keeps_the_share_asked_for() -> None:
    """On a ramp from left to right and one from top to bottom, whose spans are the crop's sides."""
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8)[None].expand(64, -1) * 4
    both = torch.stack([ramp, ramp.T])[None].expand(40, -1, -1, -1)
    cropped = Augmentation(dataclasses.replace(NONE, crop_area=0.5), 64)(both)
    spans = (cropped.amax((2, 3)) - cropped.amin((2, 3))) / (63 * 4 / 255)
    area, shape = spans.prod(1), spans[:, 0] / spans[:, 1]
    assert 0.45 < float(area.min()) < 0.6 and 0.85 < float(area.max()) <= 1.01
    assert 0.7 < float(shape.min()) < 0.85 and 1.2 < float(shape.max()) < 1.4


def test_a_detectors_errors_lay_the_crop_anew() -> None:
    """Against a least-squares fit in the test, one picture at a time."""
    from fervor.faces.alignment import TEMPLATE, similarity

    torch.manual_seed(0)
    plain = Augmentation(dataclasses.replace(NONE, rotation=20, scale=0.2, shift=0.1), 56)
    placements = plain.placements(5)
    torch.manual_seed(1)
    found = laid_anew(placements, 0.04)
    torch.manual_seed(1)
    errors = 0.04 * torch.randn(5, 5, 2).numpy()
    for before, after, error in zip(placements, found, errors, strict=True):
        crop = similarity(TEMPLATE, TEMPLATE + error)  # in 0..1
        for place in np.array([[-1, -1], [0.3, 0.5], [1, 1]], np.float32):
            source = before.numpy() @ [*place, 1]
            expected = 2 * (crop @ [*((source + 1) / 2), 1]) - 1
            np.testing.assert_allclose(after.numpy() @ [*place, 1], expected, atol=1e-4)


def test_a_side_is_cut_off_and_its_edge_repeated() -> None:
    """On a ramp from left to right and one from top to bottom, in eight draws of each side."""
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8)[None].expand(64, -1) * 4
    both = torch.stack([ramp, ramp.T])[None].expand(40, -1, -1, -1)
    config = dataclasses.replace(NONE, partial=1.0, partial_area=0.25)
    found = (Augmentation(config, 64)(both) * 255 / 4).round()
    low, high = found.amin((2, 3)), 63 - found.amax((2, 3))
    cut = torch.cat([low, high], 1)
    assert bool(((cut > 0.5).sum(1) <= 1).all())  # one side of each
    assert 12 < float(cut.max()) <= 17
    for image, lost in zip(found, low, strict=True):
        assert bool((image[0, :, : int(lost[0])] == lost[0]).all())


def test_what_is_off_draws_nothing() -> None:
    """Without crop and contrast, batches are what version 0.1 made of them."""
    torch.manual_seed(5)
    first = dataclasses.replace(STRONG, crop_padding=0, contrast=0, erase=0.5)
    found = Augmentation(first, 56)(images(3))
    torch.testing.assert_close(
        [round(float(value), 4) for value in (found.mean(), found.std(), found[2, 0, 28, 30])],
        FIRST_VERSION,
        atol=2e-3,
        rtol=0,
    )


# Pairs, and several processes


def test_pairs_leave_the_batch_as_it_is(faces: ImageSet) -> None:
    alone, paired = (
        TrainingBatches(faces, run().pipeline),
        TrainingBatches(faces, run().pipeline, pairs=True),
    )
    first, second = alone[KEY], paired[KEY]
    assert first.positive is None and second.positive is not None
    assert equal(first, second._replace(positive=None))
    assert second.positive.shape == second.image.shape
    assert equal(second, paired[KEY])
    assert not torch.equal(second.positive, paired[KEY._replace(step=3)].positive)


def test_a_partner_shows_another_picture_of_the_class(faces: ImageSet) -> None:
    plain = TrainingBatches(faces, run(augment=NONE).pipeline, pairs=True)
    everything = Augmentation(NONE, 56)(faces.images)
    seen = set()
    for step in range(60):
        batch = plain[Key(0, step, (5, 0))]
        assert batch.positive is not None
        for index, picture in zip((5, 0), batch.positive, strict=True):
            gaps = (everything - picture[:1]).abs().amax((1, 2, 3))
            partner = int(gaps.argmin())
            assert float(gaps[partner]) < 1e-5
            assert partner != index and faces.label[partner] == faces.label[index]
            seen.add((index, partner))
    assert len(seen) == 2 * 5  # every other picture of both classes


def test_a_partner_is_augmented_by_draws_of_its_own() -> None:
    """Two equal pictures: their partner is the same picture, but not augmented the same."""
    twins = pictures(LABELS[:1], 2)
    twins.images[1] = twins.images[0]
    batch = TrainingBatches(twins, run().pipeline, pairs=True)[Key(0, 0, (0, 1))]
    assert batch.positive is not None
    assert float((batch.image - batch.positive.flip(0)).abs().amax((1, 2, 3)).min()) > 0.1


def test_pairs_are_not_mixed(faces: ImageSet) -> None:
    mixing = run(augment=dataclasses.replace(NONE, mixup=0.4))
    with pytest.raises(UsageError, match=r"pairs images: set augment\.mixup to 0"):
        TrainingBatches(faces, mixing.pipeline, pairs=True)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_processes_together_see_what_one_sees(world: int, mixup: float, faces: ImageSet) -> None:
    """With workers of their own, whatever is drawn: augmentation, targets, mixtures, partners."""
    votes = torch.full_like(faces.votes, 0.1) + 0.7 * faces.votes
    shared = dataclasses.replace(faces, votes=votes)
    settings = run(
        data=Data(target="probability", sampling="balanced"),
        augment=dataclasses.replace(STRONG, mixup=mixup),
        workers=2,
    )
    batches = TrainingBatches(shared, settings.pipeline, pairs=not mixup)
    alone = list(
        training_loader(batches, shared, settings.pipeline, batch_size=settings.optim.batch_size)
    )
    shards = [
        list(
            training_loader(
                batches,
                shared,
                settings.pipeline,
                batch_size=settings.optim.batch_size,
                rank=rank,
                world=world,
            )
        )
        for rank in range(world)
    ]
    assert len(alone) == 4
    for whole, *parts in zip(alone, *shards, strict=True):
        for name, value in whole._asdict().items():
            if value is not None:
                union = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(union, value), name


# Holding out


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=3), st.floats(0.2, 0.5), st.integers(0, 9))
def test_held_out_pictures_part_the_classes(sizes: list[int], fraction: float, seed: int) -> None:
    label = torch.tensor([number for number, size in enumerate(sizes) for _ in range(size)])
    split = labelled(label.tolist())
    expected = [max(0, min(size - 1, round(fraction * size))) for size in sizes]
    if not any(expected):
        with pytest.raises(DataError, match=r"too few to hold .*% out for validation"):
            hold_out(split, NAMES, fraction, seed)
        return
    kept, held = hold_out(split, NAMES, fraction, seed)
    assert [sum(sample.label == name for sample in held) for name in NAMES[:3]] == expected
    assert sorted(kept + held, key=lambda sample: int(sample.path)) == split
    assert hold_out(split, NAMES, fraction, seed)[1] == held


NAMES = EXPRESSIONS[:5]


def labelled(numbers: Sequence[int], groups: Sequence[str] = ()) -> list[Sample]:
    """Samples of these classes, called by their places."""
    groups = groups or [""] * len(numbers)
    return [
        Sample(str(row), NAMES[int(number)], group=group)
        for row, (number, group) in enumerate(zip(numbers, groups, strict=True))
    ]


GROUPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["", "a", "b", "c", "d", "e", "f"])),
    min_size=12,
    max_size=60,
)


@settings(max_examples=60)
@given(GROUPS, st.floats(0.15, 0.5), st.integers(0, 9))
def test_no_group_is_torn_apart(members: list[tuple[int, str]], fraction: float, seed: int) -> None:
    split = labelled([number for number, _ in members], [group for _, group in members])
    try:
        kept, held = hold_out(split, NAMES, fraction, seed)
    except DataError as error:
        assert "too few to hold" in str(error)
        return
    assert sorted(kept + held, key=lambda sample: int(sample.path)) == split
    assert not {s.group for s in kept if s.group} & {s.group for s in held if s.group}
    assert {sample.label for sample in kept} == {sample.label for sample in split}
    assert hold_out(split, NAMES, fraction, seed)[1] == held


def test_many_groups_come_near_the_share() -> None:
    """40 people with one picture of each class but one, as CK+'s subjects have."""
    numbers = [(person + k) % 5 for person in range(40) for k in range(4)]
    split = labelled(numbers, [f"S{person:03d}" for person in range(40) for _ in range(4)])
    held = hold_out(split, NAMES, 0.25, seed=1)[1]
    assert len({sample.group for sample in held}) == 10
    counts = [sum(sample.label == name for sample in held) for name in NAMES]
    assert all(6 <= count <= 10 for count in counts)  # 8 of 32 each


def test_faces_of_one_photograph_stay_on_one_side() -> None:
    numbers = [row % 5 for row in range(200)]
    shown = [
        dataclasses.replace(sample, photograph=f"{row // 4 if row < 80 else row}.jpg")
        for row, sample in enumerate(labelled(numbers))
    ]
    train, valid = hold_out(shown, NAMES, 0.25, seed=1)
    assert not {sample.photograph for sample in train} & {sample.photograph for sample in valid}
    assert all(8 <= sum(sample.label == name for sample in valid) <= 12 for name in NAMES)


def test_photographs_of_one_face_are_held_out_as_images_are() -> None:
    plain = labelled([row * row % 5 for row in range(60)])
    shown = [
        dataclasses.replace(sample, photograph=f"{row}.jpg") for row, sample in enumerate(plain)
    ]
    expected = [sample.path for sample in hold_out(plain, NAMES, 0.2, seed=3)[1]]
    assert [sample.path for sample in hold_out(shown, NAMES, 0.2, seed=3)[1]] == expected
    stored = [7, 8, 9, 11, 17, 24, 28, 34, 44, 45, 48, 50]
    assert [int(path) for path in expected] == stored


# The cache


def test_a_mapped_split_gives_the_same_batches(samples: list[Sample], tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    kept = read_images(samples, LABELS, size=112)
    for map_ordered in (read_images(samples, LABELS, size=112, cache=folder) for _ in range(2)):
        assert torch.equal(map_ordered.images, kept.images)
        assert (map_ordered.sources, map_ordered.counts()) == (kept.sources, kept.counts())
        key = Key(0, 1, (2, 0))
        assert equal(
            TrainingBatches(map_ordered, run().pipeline)[key],
            TrainingBatches(kept, run().pipeline)[key],
        )
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_pictures_without_a_face_are_left_out_of_a_mapped_split(tmp_path: Path) -> None:
    nobody = saved(tmp_path, "nobody.png", np.full((200, 200, 3), 90, np.uint8))
    found = [Sample(nobody, "neutral"), Sample(str(EXAMPLE), "happiness", group="S1")]
    read = [
        read_images(found, LABELS, size=112, faces="largest", cache=cache)
        for cache in ("", str(tmp_path / "cache"), str(tmp_path / "cache"))
    ]
    for split in read:
        assert (split.sources, split.groups) == ((str(EXAMPLE),), ("S1",))
        assert torch.equal(split.take(torch.tensor([0])), read[0].take(torch.tensor([0])))
        assert next(evaluation_batches(split, size=112)).image.std() > 0.1
