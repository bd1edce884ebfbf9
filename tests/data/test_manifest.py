"""What reads an aligned folder: crops in place of pictures, by the data set's own labels."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervor.config import Data, Encoder, Pipeline
from fervor.data.alignment import align
from fervor.data.manifest import settings_of, substitute
from fervor.errors import DataError
from tests.support.drawn import write_folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of drawn faces, and one picture without a face in test."""
    root = tmp_path_factory.mktemp("faces")
    write_folder(root / "train", ["neutral", "happiness"], 3)
    write_folder(root / "test", ["happiness"], 1, seed=1)
    Image.new("RGB", (90, 90), (90, 90, 90)).save(root / "test" / "happiness" / "nobody.png")
    return root


def test_what_is_no_aligned_folder(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no readable align\.json: expected a folder that"):
        substitute([], "folder", str(faces), str(tmp_path))
    align("folder", str(faces), str(tmp_path / "out"), size=32)
    with pytest.raises(DataError, match=r"holds aligned pictures of folder, not of rafdb"):
        substitute([], "rafdb", str(faces), str(tmp_path / "out"))
    assert settings_of(tmp_path / "out").size == 32


def test_training_reads_the_crops_by_protocol_and_label(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    from fervor.data.splits import load_samples, read_splits

    output = tmp_path / "out"
    align("folder", str(faces), str(output), size=32, missing="skip")
    data = Data(
        name="folder",
        root=str(faces),
        aligned=str(output),
        cache=str(tmp_path / "cache"),
        validation=0.4,
    )
    splits = read_splits(Pipeline(data, encoder=Encoder(size=32)))
    assert splits.labels == ("neutral", "happiness")
    assert splits.train.images.shape == (4, 1, 32, 32)  # grey, and stored so
    assert (len(splits.train), len(splits.selection)) == (4, 2)
    for index, source in enumerate(splits.train.sources):
        assert source.startswith(f"{output}/pictures/train/")
        (image,) = splits.train.take(torch.tensor([index]))
        assert np.array_equal(image[0], np.asarray(Image.open(source)))
        assert splits.labels[splits.train.label[index]] in source
    with caplog.at_level(logging.WARNING):
        samples, skipped = load_samples(data, "test", protocol="")
    assert (len(samples), skipped) == (1, 1)
    assert "without a face: 1 of 2 test pictures" in caplog.text
