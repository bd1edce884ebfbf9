"""Image encoders: one signature, frozen blocks, grey pictures, and agreement with the library."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fervor.config import Encoder
from fervor.errors import ModelError, UsageError
from fervor.models.image import FaceEncoder, ImageEncoder, build_image_encoder
from fervor.models.image.base import Pixels
from fervor.models.image.huggingface import IMAGENET, OPENAI, SwinEncoder
from fervor.plugins import IMAGE_ENCODERS
from tests.support import tiny


FACE_NETS = ("face-mobilenet", "face-resnet")


def pictures(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def build(name: str, folder: Path, **options: Any) -> ImageEncoder:
    """A face net with its packaged weights, or a tiny one from a folder."""
    if name in tiny.SAVED:
        options |= {"weights": tiny.SAVED[name](folder / name), "size": 32}
    if name == "vlm":
        options |= {"size": 144}
    return build_image_encoder(Encoder(name=name, **options))


@pytest.mark.parametrize("name", [*FACE_NETS, "vlm", *tiny.SAVED])
def test_every_encoder_gives_features(name: str, tmp_path: Path) -> None:
    encoder = build(name, tmp_path).eval()
    image = pictures(size=encoder.size)
    with torch.no_grad():
        features = encoder(image)
        bytes_last = encoder(image.contiguous(memory_format=torch.channels_last))
    rows, columns = features.grid
    assert features.pooled.shape == (2, encoder.width)
    assert features.tokens.shape == (2, rows * columns, encoder.width)
    assert rows == columns > 0
    assert features.pooled.isfinite().all() and features.tokens.isfinite().all()
    assert (features.pooled[0] - features.pooled[1]).abs().max() > 1e-3
    torch.testing.assert_close(bytes_last.pooled, features.pooled, rtol=1e-3, atol=1e-4)
    assert encoder.report is not None
    assert encoder.report.loaded


@pytest.mark.parametrize("name", [*FACE_NETS, "vlm", *tiny.SAVED])
def test_one_block_frozen_is_really_frozen(name: str, tmp_path: Path) -> None:
    encoder = build(name, tmp_path, frozen_blocks=1).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    frozen = {id(tensor) for part in encoder.parts()[:2] for tensor in part.parameters()}
    trained = [tensor for tensor in encoder.parameters() if id(tensor) not in frozen]
    features = encoder(pictures(4, size=encoder.size))
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    torch.optim.SGD(trained, lr=0.1, weight_decay=0.1).step()

    assert frozen
    for tensor in encoder.parameters():
        assert tensor.requires_grad == (id(tensor) not in frozen)
    reached = [tensor for tensor in trained if tensor.grad is not None]
    assert len(reached) == len(trained)
    assert all(tensor.grad.isfinite().all() for tensor in reached if tensor.grad is not None)
    still = {
        key
        for part in encoder.parts()[:2]
        for tensor in (*part.parameters(), *part.buffers())
        for key, value in encoder.state_dict(keep_vars=True).items()
        if value is tensor
    }
    for key, value in encoder.state_dict().items():
        if key in still:
            assert torch.equal(value, before[key]), key
        elif key.endswith("running_mean"):
            assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", FACE_NETS)
def test_gradient_reaches_everything_trainable(name: str) -> None:
    encoder = build_image_encoder(Encoder(name=name)).train()
    encoder(pictures(2, 112)).pooled.sum().backward()
    for key, tensor in encoder.named_parameters():
        assert tensor.grad is not None and tensor.grad.isfinite().all(), key
        assert tensor.grad.abs().sum() > 0, key


def test_all_blocks_can_be_frozen_but_no_more() -> None:
    encoder = build_image_encoder(Encoder(frozen_blocks=13))
    assert not any(tensor.requires_grad for tensor in encoder.parameters())
    norms = [layer for layer in encoder.train().modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 27
    assert not any(norm.training for norm in norms)
    with pytest.raises(UsageError, match="frozen_blocks is 14, expected 0 to 13"):
        build_image_encoder(Encoder(frozen_blocks=14))


@pytest.mark.parametrize(
    ("name", "last_stride", "size", "side"),
    [
        ("face-mobilenet", 1, 112, 7),
        ("face-mobilenet", 2, 112, 3),
        ("face-mobilenet", 1, 128, 8),
        ("face-resnet", 1, 112, 3),
        ("face-resnet", 2, 112, 1),
    ],
)
def test_the_last_stride_sets_the_grid(name: str, last_stride: int, size: int, side: int) -> None:
    encoder = build_image_encoder(Encoder(name=name, size=size, last_stride=last_stride)).eval()
    with torch.no_grad():
        features = encoder(pictures(1, size))
    assert features.grid == (side, side)
    torch.testing.assert_close(features.pooled, features.tokens.mean(dim=1))


@torch.no_grad()
def test_the_three_scales_of_the_face_pretrained_net() -> None:
    encoder = build_image_encoder(Encoder(size=112)).eval()
    assert isinstance(encoder, FaceEncoder)
    image = pictures(1, 112)
    maps = encoder.scales(image)
    assert [tuple(part.shape[1:]) for part in maps] == [(128, 28, 28), (256, 14, 14), (1024, 7, 7)]
    assert encoder.scale_widths == (128, 256, 1024)
    assert [112 // stride for stride in encoder.scale_strides] == [28, 14, 7]
    torch.testing.assert_close(maps[2].mean((2, 3)), encoder(image).pooled)
    states = encoder.trunk.stem(encoder.normalised(image))
    for number, block in enumerate(encoder.trunk.blocks):
        states = block(states)
        if number in (2, 4):  # the last ones before a stride
            torch.testing.assert_close(maps[number // 2 - 1], states)
    assert build_image_encoder(Encoder(last_stride=2)).scale_widths == ()
    assert build_image_encoder(Encoder("face-resnet")).scale_widths == ()


def test_a_grey_encoder_sees_luminance_alone() -> None:
    colour = pictures(1, 96)
    pixels = (colour[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    colour = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    grey = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L"))) / 255
    grey = grey.expand(1, 3, -1, -1)
    with torch.no_grad():
        encoder = build_image_encoder(Encoder(grey=True, size=96)).eval()
        assert isinstance(encoder, FaceEncoder)
        seen = encoder.normalised(colour)
        assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 0], seen[:, 2])
        assert (seen - encoder.normalised(grey)).abs().max() <= 1  # PIL rounds to 0..255
        open_eyed = build_image_encoder(Encoder(grey=False, size=96)).eval()
        torch.testing.assert_close(encoder(grey).pooled, open_eyed(grey).pooled, atol=1e-3, rtol=0)
        assert (encoder(colour).pooled - open_eyed(colour).pooled).abs().max() > 0.01


def test_restored_batchnorm_takes_plain_pictures() -> None:
    encoder = build_image_encoder(Encoder(grey=True)).eval()
    assert isinstance(encoder, FaceEncoder)
    images = pictures(8, 112)
    with torch.no_grad():
        before = encoder(images).pooled
        encoder.restore_batchnorm(images)
        after, trained = encoder(images).pooled, encoder.train()(images).pooled
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert ((trained - after).norm() / after.norm()).item() < 1e-3


def test_a_trained_face_net_comes_back_from_its_state_dict(tmp_path: Path) -> None:
    encoder = build_image_encoder(Encoder())
    assert isinstance(encoder, FaceEncoder)
    encoder.restore_batchnorm(pictures(8, 112))
    path = tmp_path / "trained.pt"
    torch.save(encoder.state_dict(), path)
    again = build_image_encoder(Encoder(weights=str(path)))
    for key, value in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_random_weights_are_not_the_packaged_ones() -> None:
    packaged, drawn = Encoder(), Encoder(weights="random")
    stem = "trunk.stem.conv.weight"
    first, second = (build_image_encoder(config).state_dict() for config in (packaged, drawn))
    assert not torch.allclose(first[stem], second[stem])


def clip_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    model = transformers.CLIPModel.from_pretrained(folder)
    states = model.vision_model(pixel_values=image).last_hidden_state[:, 1:]
    tokens = model.visual_projection(model.vision_model.post_layernorm(states))
    return model.get_image_features(pixel_values=image).pooler_output, tokens


def align_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    model = transformers.AlignModel.from_pretrained(folder).eval()
    maps = model.vision_model(pixel_values=image).last_hidden_state
    return model.get_image_features(pixel_values=image).pooler_output, maps.flatten(2).mT


def blip_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    model = transformers.BlipForImageTextRetrieval.from_pretrained(folder)
    joint = model.vision_proj(model.vision_model(pixel_values=image).last_hidden_state)
    return joint[:, 0], joint[:, 1:]


def resnet_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    output = transformers.ResNetModel.from_pretrained(folder).eval()(image)
    return output.pooler_output.flatten(1), output.last_hidden_state.flatten(2).mT


def swin_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    output = transformers.SwinModel.from_pretrained(folder).eval()(image)
    return output.pooler_output, output.last_hidden_state


def vit_features(folder: str, image: Tensor) -> tuple[Tensor, Tensor]:
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False)
    states = model(image).last_hidden_state
    return states[:, 0], states[:, 1:]


LIBRARY = {
    "resnet18": resnet_features,
    "swin-t": swin_features,
    "vit-b16": vit_features,
    "clip": clip_features,
    "align": align_features,
    "blip": blip_features,
}


@pytest.mark.parametrize("name", LIBRARY)
@torch.no_grad()
def test_features_equal_the_librarys_own_forward(name: str, tmp_path: Path) -> None:
    encoder = build(name, tmp_path).eval()
    image = pictures()
    features = encoder(image)
    pooled, tokens = LIBRARY[name](str(tmp_path / name), (image - encoder.mean) / encoder.deviation)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.tokens, tokens, rtol=1e-4, atol=1e-4)
    assert features.tokens.std(dim=1).max() > 1e-3  # places differ, so their order is tested


@pytest.mark.parametrize("name", ["vit-b16", "clip", "blip", "swin-t", "resnet18", "align"])
@torch.no_grad()
def test_other_sizes_than_the_pretrained_one_work(name: str, tmp_path: Path) -> None:
    encoder = build(name, tmp_path).eval()
    features = encoder(pictures(1, 48))
    assert features.tokens.shape[1] == features.grid[0] * features.grid[1]
    assert features.grid[0] > encoder(pictures(1, 32)).grid[0]


@pytest.mark.parametrize("name", tiny.SAVED)
def test_an_encoder_is_rebuilt_from_its_architecture(name: str, tmp_path: Path) -> None:
    encoder = build(name, tmp_path).eval()
    assert encoder.architecture is not None
    config = Encoder(name=name, size=32, weights="random")
    again = build_image_encoder(config, architecture=encoder.architecture).eval()
    again.load_state_dict(encoder.state_dict())
    image = pictures()
    torch.testing.assert_close(again(image).pooled, encoder(image).pooled)


def test_a_folders_pixel_statistics_come_first(tmp_path: Path) -> None:
    folder = Path(tiny.save_vit(tmp_path / "vit"))
    config = Encoder(name="vit-b16", weights=str(folder), size=32)
    assert build_image_encoder(config).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    tiny.save_statistics(folder, image_mean=IMAGENET[0], image_std=IMAGENET[1], do_normalize=True)
    encoder = build_image_encoder(config)
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor(IMAGENET[0]))
    torch.testing.assert_close(encoder.deviation.flatten(), torch.tensor(IMAGENET[1]))
    # EfficientNet's way, as ALIGN's folder has it: 0..255 / 127.5 - 1, nothing more.
    tiny.save_statistics(
        folder,
        do_normalize=False,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        image_mean=IMAGENET[0],
        image_std=IMAGENET[1],
    )
    ends = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    seen = build_image_encoder(config).normalised(ends)
    torch.testing.assert_close(seen, ends * 2 - 1)


STRANGE: dict[str, dict[str, Any]] = {
    "a text": {"image_mean": "x"},
    "a number": {"image_mean": 3},
    "two of them": {"image_mean": [0.5, 0.5]},
    "no deviation": {"image_mean": [0.5] * 3},
    "nothing of it": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0},
    "a list": {"image_processor": []},
}


@pytest.mark.parametrize("case", ["deep", *STRANGE])
def test_strange_pixel_statistics_are_one_line(case: str, tmp_path: Path) -> None:
    folder = Path(tiny.save_vit(tmp_path / "vit"))
    if case == "deep":
        (folder / "preprocessor_config.json").write_text('{"image_mean": ' + "[" * 100_000)
    else:
        tiny.save_statistics(folder, **STRANGE[case])
    with pytest.raises(ModelError, match="states no mean and deviation of pixels"):
        build_image_encoder(Encoder(name="vit-b16", weights=str(folder), size=32))


def test_pixel_statistics_travel_with_the_weights(tmp_path: Path) -> None:
    folder = Path(tiny.save_vit(tmp_path / "vit"))
    tiny.save_statistics(folder, image_mean=OPENAI[0], image_std=OPENAI[1])
    encoder = build_image_encoder(Encoder(name="vit-b16", weights=str(folder), size=32))
    again = build_image_encoder(
        Encoder(name="vit-b16", weights="random", size=32), architecture=encoder.architecture
    )
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.mean, encoder.mean)


def test_published_sizes() -> None:
    """KE-FER states 11.3 M and 28.6 M with its transformation, an MLP 512-128-512 of 131.7 k."""
    transformation = 2 * 512 * 128 + 512 + 128
    for name, published in (("resnet18", 11.3), ("swin-t-112", 28.6)):
        encoder = build_image_encoder(Encoder(name=name))
        count = sum(tensor.numel() for tensor in encoder.parameters())
        assert encoder.width == 512
        assert round((count + transformation) / 1e6, 1) == published


def test_swin_of_the_released_code_has_a_seven_by_seven_grid() -> None:
    encoder = build_image_encoder(Encoder(name="swin-t-112")).eval()
    assert isinstance(encoder, SwinEncoder)
    for layer in (encoder.feature[1], encoder.feature[3]):
        assert layer.eps == 2e-5
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        features = encoder(pictures(2, 112))
    assert features.grid == (7, 7)
    torch.testing.assert_close(features.pooled, features.tokens.mean(dim=1), rtol=1e-3, atol=1e-4)


def test_tokens_leave_the_batch_statistics_alone() -> None:
    feature = (nn.Linear(16, 6, bias=False), nn.BatchNorm1d(6))
    settings = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1]}
    settings |= {"num_heads": [2, 2], "window_size": 4}
    trunk = transformers.SwinModel(transformers.SwinConfig(**settings), add_pooling_layer=False)
    encoder = SwinEncoder(trunk, Pixels(32, False, *IMAGENET), feature=feature).train()
    seen: list[int] = []
    feature[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].ndim))
    encoder(pictures())
    assert seen == [2]  # the batch's pooled vectors, once
    assert feature[1].num_batches_tracked == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet50"}, f"expected one of {', '.join(IMAGE_ENCODERS)}"),
        ({"last_stride": 3}, "last_stride is 3, expected 1 or 2"),
        ({"name": "swin-t"}, "size is 112, this Swin expects at least 193 pixels"),
        ({"name": "face-resnet", "size": 96, "last_stride": 2}, "expects at least 103"),
        ({"name": "swin-t-112", "weights": "some/model"}, "expected a state dict file"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_image_encoder(Encoder(**options))


def test_weights_that_are_nowhere_are_one_line(tmp_path: Path) -> None:
    for weights in (str(tmp_path / "none.safetensors"), str(tmp_path / "none"), "imagenet"):
        for name in ("face-mobilenet", "vit-b16"):
            with pytest.raises(ModelError, match=r"not found|no folder and no hub name") as raised:
                build_image_encoder(Encoder(name=name, weights=weights))
            assert "\n" not in str(raised.value)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="kind vit, expected clip"):
        build_image_encoder(Encoder(name="clip", weights=tiny.save_vit(tmp_path / "vit")))


def test_a_folder_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = Path(tiny.save_resnet(tmp_path / "resnet"))
    state = load_file(folder / "model.safetensors")
    state.pop("embedder.embedder.convolution.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 missing"):
        build_image_encoder(Encoder(name="resnet18", weights=str(folder)))


def test_a_classifiers_folder_leaves_its_head_over(tmp_path: Path) -> None:
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig(**tiny.VISION))
    folder = tiny.save(classifier, tmp_path / "vit")
    encoder = build_image_encoder(Encoder(name="vit-b16", weights=folder, size=32))
    assert encoder.report is not None
    assert encoder.report.left_over == ("classifier.bias", "classifier.weight")


def test_a_mirrored_picture_gives_the_same_with_mirror() -> None:
    encoder = build_image_encoder(Encoder(size=96, grey=True, mirror=True)).eval()
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here, there = encoder(image), encoder(image.flip(3))
        plain = build_image_encoder(Encoder(size=96, grey=True)).eval()
        one, other = plain(image), plain(image.flip(3))
    torch.testing.assert_close(here.pooled, there.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here.pooled, (one.pooled + other.pooled) / 2, rtol=1e-4, atol=1e-4)
    rows, columns = here.grid
    places = here.tokens.unflatten(1, (rows, columns))
    swapped = there.tokens.unflatten(1, (rows, columns)).flip(2)
    torch.testing.assert_close(places, swapped, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here.tokens.mean(1), here.pooled, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one.pooled, other.pooled, atol=1e-3)
