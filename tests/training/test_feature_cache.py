"""Cached views against the same layers computed anew."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from filelock import FileLock

from fervor.config import Augment, Data, Encoder, Optim, Run
from fervor.data.augmentation import Augmentation
from fervor.data.image_set import ImageSet
from fervor.data.loading import evaluation_batches
from fervor.data.samplers import EpochSampler, Key, mixed_seed
from fervor.errors import UsageError
from fervor.evaluation.evaluate import torch_logits
from fervor.methods.base import Method
from fervor.methods.lacovl.method import LaCoVL
from fervor.models.image import FaceEncoder, Features, build_image_encoder
from fervor.training import feature_cache
from fervor.training.feature_cache import CHUNK, plain_batches, view_batches
from tests.support.drawn import DrawnText


@pytest.fixture
def pictures() -> ImageSet:
    """70 grey noise pictures of 48 pixels, two classes: more than one chunk."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 1, 48, 48), generator=generator, dtype=torch.uint8)
    label = torch.arange(70) % 2
    return ImageSet(images, label, torch.eye(2)[label], ("",) * 70)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two views of a face-pretrained trunk with six frozen blocks."""
    return Run(
        data=Data(views=2, cache=str(tmp_path / "cache")),
        augment=Augment(rotation=10, brightness=0.1),
        encoder=Encoder(size=96, grey=True, frozen_blocks=6),
        optim=Optim(batch_size=8),
    )


class Plain(Method):
    """An encoder whose features are the answers."""

    def __init__(self, image: FaceEncoder) -> None:
        torch.nn.Module.__init__(self)
        self.image = image

    def logits(self, features: Features) -> torch.Tensor:
        return features.pooled


class Paired(Plain):
    """The same, with a partner for each image."""

    pairs = True


def built(run: Run) -> FaceEncoder:
    encoder = build_image_encoder(run.encoder)
    assert isinstance(encoder, FaceEncoder)
    return encoder


def test_views_seed_no_graphics_card(
    pictures: ImageSet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Plain(built(run))
    seeds = Mock()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds)
    view_batches(method, pictures, run.pipeline)[Key(epoch=1, step=0, indices=(0, 3, 69))]
    assert not seeds.called


def test_views_of_another_meaning_of_the_settings_are_made_anew(
    pictures: ImageSet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Plain(built(run))
    view_batches(method, pictures, run.pipeline)
    monkeypatch.setattr(feature_cache, "CHANGES", 1)
    view_batches(method, pictures, run.pipeline)
    assert len(list(Path(run.data.cache).glob("*/view0.npy"))) == 2


def test_views_of_another_precision_are_others(
    pictures: ImageSet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(augment: Augment | None) -> str:
        return feature_cache._fingerprint(Plain(encoder), pictures, run.encoder, augment)

    encoder = built(run)
    monkeypatch.setattr(feature_cache, "has_bfloat16", lambda: False)
    single, plain = named(run.augment), named(None)
    monkeypatch.setattr(feature_cache, "has_bfloat16", lambda: True)
    assert named(run.augment) != single
    assert named(None) == plain  # in single precision everywhere


def test_cached_maps_give_what_pictures_give(pictures: ImageSet, run: Run) -> None:
    encoder = built(run)
    batches = view_batches(Plain(encoder), pictures, run.pipeline)
    indices = (0, 3, 69)
    batch = batches[Key(epoch=1, step=0, indices=indices)]
    seen = {}
    for start in (0, CHUNK):
        torch.manual_seed(mixed_seed(1, start))
        augmented = Augmentation(run.augment, 96)(pictures.images[start : start + CHUNK])
        seen |= dict(enumerate(augmented, start))
    images = torch.stack([seen[index] for index in indices]).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = encoder.eval()(images)
        cached = encoder.trainable_stage(batch.maps)
    # the frozen layers' maps are kept in bfloat16, which has eight bits
    gaps = torch.cdist(cached.pooled, expected.pooled) / expected.pooled.norm(dim=1)
    assert float(gaps.diagonal().max()) < 0.1
    assert gaps.argmin(dim=1).tolist() == [0, 1, 2]
    assert cached.grid == expected.grid
    assert batch.label.tolist() == [0, 1, 1]


def test_views_differ_take_turns_and_ignore_the_seed(pictures: ImageSet, run: Run) -> None:
    batches = view_batches(Plain(built(run)), pictures, run.pipeline)
    images = [batches[Key(epoch, 0, (5,))].maps for epoch in range(3)]
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    other = view_batches(Plain(built(run)), pictures, replace(run, seed=1).pipeline)
    assert torch.equal(other[Key(0, 0, (5,))].maps, images[0])


@pytest.mark.parametrize("training", [True, False])
def test_what_computes_the_maps_leaves_the_method_in_its_mode(
    training: bool, pictures: ImageSet, run: Run
) -> None:
    """Dropout goes on in training, whatever was cached before."""
    method = Plain(built(run)).train(training)
    seen = []
    plain = method.image.frozen_stage

    def frozen_stage(image: torch.Tensor) -> torch.Tensor:
        seen.append(method.training)
        return plain(image)

    method.image.frozen_stage = frozen_stage
    view_batches(method, pictures, run.pipeline)
    list(plain_batches(method, pictures, run.pipeline))
    assert seen and not any(seen)
    assert method.training is training


class Elsewhere(torch.Tensor):
    """What a device's memory holds: numpy sees it when it has been copied."""

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a device's tensor to numpy")


class OnDevice(Method):
    """A method on a device, for which the one without memory stands."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

    has_frozen_stage = True

    def frozen_stage(self, image: torch.Tensor) -> torch.Tensor:
        assert image.device == self.weight.device
        return torch.rand(len(image), 4, 3, 3).as_subclass(Elsewhere)


def test_images_go_to_the_methods_device_and_maps_come_back(
    pictures: ImageSet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def autocast(device: str, *_: Any, **__: Any) -> Any:
        devices.append(device)
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr("fervor.training.feature_cache.has_bfloat16", lambda: True)
    batches = view_batches(OnDevice(), pictures, run.pipeline)
    assert batches[Key(0, 0, (0, 69))].maps.shape == (2, 4, 3, 3)
    assert set(devices) == {"meta"}
    plain = list(plain_batches(OnDevice(), pictures, run.pipeline))
    assert sum(len(batch.maps) for batch in plain) == 70


def test_runs_share_the_cache_and_other_pictures_do_not(pictures: ImageSet, run: Run) -> None:
    view_batches(Plain(built(run)), pictures, run.pipeline)
    files = set(Path(run.data.cache).rglob("*.npy"))
    assert len(files) == 2
    encoder = built(run)
    encoder.restore_batchnorm(torch.rand(8, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    view_batches(Plain(encoder), pictures, replace(run, seed=3, method="classifier").pipeline)
    assert set(Path(run.data.cache).rglob("*.npy")) == files
    view_batches(Plain(built(run)), pictures.subset(torch.arange(64)), run.pipeline)
    assert len(set(Path(run.data.cache).rglob("*.npy"))) == 4


def test_what_another_process_is_at_comes_last(pictures: ImageSet, run: Run) -> None:
    view_batches(Plain(built(run)), pictures, run.pipeline)
    (folder,) = {path.parent for path in Path(run.data.cache).rglob("view*.npy")}
    for path in folder.glob("view*.npy"):
        path.unlink()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(folder / ".view0.npy.lock"):
            asked = pool.submit(view_batches, Plain(built(run)), pictures, run.pipeline)
            end = time.monotonic() + 60
            while not (folder / "view1.npy").is_file() and time.monotonic() < end:
                time.sleep(0.05)
            assert (folder / "view1.npy").is_file()
            assert not asked.done()
        assert len(asked.result(timeout=60).views) == 2
    assert (folder / "view0.npy").is_file()


def test_the_sampler_keeps_its_order(pictures: ImageSet, run: Run) -> None:
    batches = view_batches(Plain(built(run)), pictures, run.pipeline)
    keys = list(EpochSampler(pictures.label, 8, seed=0))
    assert [batches[key].label.tolist() for key in keys[:2]] == [
        pictures.label[list(key.indices)].tolist() for key in keys[:2]
    ]


def test_what_views_cannot_do(pictures: ImageSet, run: Run) -> None:
    thawed = replace(run, encoder=replace(run.encoder, frozen_blocks=0))
    with pytest.raises(UsageError, match="frozen_blocks"):
        view_batches(Plain(built(thawed)), pictures, thawed.pipeline)
    mixed = replace(run, augment=replace(run.augment, mixup=0.2))
    with pytest.raises(UsageError, match="mix"):
        view_batches(Plain(built(run)), pictures, mixed.pipeline)
    with pytest.raises(
        UsageError, match=r"needs a folder for its maps: name one with --data\.cache"
    ):
        replace(run, data=replace(run.data, cache="")).check()


def test_partners_come_from_the_same_view(pictures: ImageSet, run: Run) -> None:
    alone = view_batches(Plain(built(run)), pictures, run.pipeline)
    paired = view_batches(Paired(built(run)), pictures, run.pipeline)
    key = Key(epoch=1, step=4, indices=(5, 0))
    batch = paired[key]
    assert batch.image is batch.positive is None
    assert torch.equal(batch.maps, alone[key].maps) and alone[key].positive_maps is None
    members = {parity: tuple(range(parity, 70, 2)) for parity in (0, 1)}
    for index, found in zip(key.indices, batch.positive_maps, strict=True):
        others = alone[Key(1, 0, members[index % 2])].maps
        same = (others == found).flatten(1).all(1).nonzero().flatten().tolist()
        assert len(same) == 1 and members[index % 2][same[0]] != index


def test_processes_together_see_the_views_that_one_sees(pictures: ImageSet, run: Run) -> None:
    batches = view_batches(Paired(built(run)), pictures, run.pipeline)
    for alone, *parts in zip(
        EpochSampler(pictures.label, 8, seed=0),
        *(EpochSampler(pictures.label, 8, seed=0, rank=rank, world=2) for rank in range(2)),
        strict=True,
    ):
        whole, probabilities = batches[alone], [batches[part] for part in parts]
        for name, value in whole._asdict().items():
            if value is not None:
                assert torch.equal(torch.cat([getattr(s, name) for s in probabilities]), value)


def test_a_split_is_measured_on_cached_maps_as_on_pictures(pictures: ImageSet, run: Run) -> None:
    method = Plain(built(run))
    expected = torch_logits(method, evaluation_batches(pictures, size=96))
    found = list(plain_batches(method, pictures, run.pipeline))
    assert all(batch.image is None for batch in found)
    np.testing.assert_allclose(torch_logits(method, found), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([batch.label for batch in found]), pictures.label)
    cache = Path(run.data.cache)
    (written,) = cache.glob("*/plain.npy")
    before = written.stat().st_mtime_ns
    list(plain_batches(method, pictures, run.pipeline))
    assert written.stat().st_mtime_ns == before
    assert {path.name for path in written.parent.iterdir()} == {"plain.npy", ".plain.npy.lock"}


@pytest.mark.parametrize(
    "change", [{"data": Data(views=0)}, {"encoder": Encoder(size=96, grey=True, mirror=True)}]
)
def test_a_split_is_measured_on_pictures_where_maps_do_not_suffice(
    pictures: ImageSet, run: Run, change: dict[str, Any]
) -> None:
    batches = list(plain_batches(Plain(built(run)), pictures, replace(run, **change).pipeline))
    assert all(batch.images().shape[1:] == (3, 96, 96) for batch in batches)


def test_the_name_of_an_encoders_weights_does_not_matter(
    pictures: ImageSet, run: Run, tmp_path: Path
) -> None:
    """The layers' function tells two caches apart, wherever the weights came from."""
    method, other = Plain(built(run)), tmp_path / "other.safetensors"
    list(plain_batches(method, pictures, run.pipeline))
    list(
        plain_batches(
            method,
            pictures,
            replace(run, encoder=replace(run.encoder, weights=str(other))).pipeline,
        )
    )
    assert len(list(Path(run.data.cache).glob("*/plain.npy"))) == 1
    with torch.no_grad():
        next(method.image.parts()[0].parameters()).mul_(2)
    list(plain_batches(method, pictures, run.pipeline))
    assert len(list(Path(run.data.cache).glob("*/plain.npy"))) == 2


def test_a_method_of_several_networks_has_views_of_them_all(pictures: ImageSet, run: Run) -> None:
    """Maps at three scales are cached for pictures, partners, and what is measured on."""
    run = replace(run, encoder=Encoder(size=64, grey=True, last_stride=1, frozen_blocks=13))
    options = LaCoVL.Options(resolution=64, width=24, heads=3)
    method = LaCoVL(built(run), DrawnText(12), ("neutral", "anger"), options)
    batches = view_batches(method, pictures, run.pipeline)
    batch = batches[Key(1, 0, (0, 3, 69))]
    assert batch.maps.shape == batch.positive_maps.shape
    assert batch.maps.shape[1] == 16 * 16 * 128 + 8 * 8 * 256 + 4 * 4 * 1024
    method.losses(batch)["loss"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    cached = torch_logits(method, plain_batches(method, pictures, run.pipeline))
    anew = torch_logits(method, evaluation_batches(pictures, size=64))
    np.testing.assert_allclose(cached, anew, atol=1e-5)
    other = LaCoVL(built(run), DrawnText(12), ("neutral", "anger"), options)
    folders = set(Path(run.data.cache).iterdir())
    view_batches(other, pictures, run.pipeline)
    assert set(Path(run.data.cache).iterdir()) == folders  # one cache for runs that are compared
