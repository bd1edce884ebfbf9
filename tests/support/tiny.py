"""Tiny random models of transformers, saved as a hub folder holds them: no network needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


WORDS = (
    "a an photo of person making facial expression face neutral happiness surprise sadness "
    "anger disgust fear contempt . this is id makes feeling on the with"
).split()
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 24}
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def save(model: Any, folder: Path) -> str:
    """The folder's name, after the model has got weights that make inputs differ in its output."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                start = 0.5 if name.endswith(("running_var", "weight")) else -0.2
                tensor.uniform_(start, start + 0.4)
            elif tensor.is_floating_point():
                inputs = tensor[0].numel() if tensor.ndim == 4 else 4
                tensor.normal_(std=2 / inputs**0.5)
    model.save_pretrained(folder)
    return str(folder)


def save_statistics(folder: Path, **settings: Any) -> None:
    """What an image processor would save."""
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def save_bert_tokenizer(folder: Path) -> None:
    """A word-piece tokenizer that knows WORDS."""
    from transformers import BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def save_clip_tokenizer(folder: Path) -> dict[str, int]:
    """A byte-pair tokenizer whose every token is one letter; gives its special tokens."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>"]
    tokens.append("<|endoftext|>")
    vocabulary = {token: place for place, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}


def save_resnet(folder: Path) -> str:
    from transformers import ResNetConfig, ResNetModel

    # torch 2.13 writes beyond its memory in a 1 x 1 convolution with a stride and fewer than eight
    # input channels, channels last, on processors without AVX-512
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 12], depths=[1, 1, 1], layer_type="basic"
    )
    return save(ResNetModel(config), folder)


def save_swin(folder: Path) -> str:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return save(SwinModel(config), folder)


def save_vit(folder: Path) -> str:
    from transformers import ViTConfig, ViTModel

    return save(ViTModel(ViTConfig(**VISION), add_pooling_layer=False), folder)


def save_clip(folder: Path, *, positions: int = 77) -> str:
    from transformers import CLIPConfig, CLIPModel

    special = save_clip_tokenizer(folder)
    text = {**TEXT, **special, "max_position_embeddings": positions}
    text["projection_dim"] = 12
    text["vocab_size"] = special["eos_token_id"] + 1
    vision = {**VISION, "projection_dim": 12}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return save(CLIPModel(config), folder)


def save_align(folder: Path) -> str:
    from transformers import AlignConfig, AlignModel

    save_bert_tokenizer(folder)
    vision = {
        "image_size": 32,
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "in_channels": [32, 16],
        "out_channels": [16, 32],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
        "hidden_dim": 16,
    }
    text = {**TEXT, "vocab_size": len(WORDS) + 5}
    return save(
        AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=8)), folder
    )


def save_blip(folder: Path) -> str:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    save_bert_tokenizer(folder)
    text = {**TEXT, "vocab_size": len(WORDS) + 5, "encoder_hidden_size": 16}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=12)
    return save(BlipForImageTextRetrieval(config), folder)


SAVED: dict[str, Callable[[Path], str]] = {
    "resnet18": save_resnet,
    "swin-t": save_swin,
    "vit-b16": save_vit,
    "clip": save_clip,
    "align": save_align,
    "blip": save_blip,
}
"""Encoders of transformers by name: tiny, written to a folder as the hub would give them."""
