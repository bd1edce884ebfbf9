"""Pictures behind addresses: what is found, in which order, and what each fault says."""

import io
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from fervor.errors import InputError, UsageError
from fervor.io import remote


fsspec = pytest.importorskip("fsspec", reason="needs fervor[cluster]")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def bucket() -> Iterator[str]:
    """Pictures, a text and a damaged picture in an object store that is this process's memory."""
    store = fsspec.filesystem("memory")
    for name, content in {
        "b/1.png": png("red"),
        "b.png": png("blue"),
        "a.JPG": png("lime"),
        "notes.txt": b"no picture",
        "c.png": png("red")[:40],
        "d.png": b"",
    }.items():
        store.pipe(f"/bucket/{name}", content)
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("source", "remotely"),
    [("s3://bucket/a.png", True), ("file:///a.png", True), ("a.png", False), ("webcam:0", False),
     ("C://a.png", False), ("/a/b://c.png", False)],
)  # fmt: skip
def test_addresses(source: str, remotely: bool) -> None:
    assert remote.is_remote(source) is remotely


def test_a_folder_is_searched_in_order(bucket: str) -> None:
    names = [name.removeprefix("memory://") for name in remote.find(bucket)]
    assert names == [f"/bucket/{name}" for name in ("a.JPG", "b/1.png", "b.png", "c.png", "d.png")]
    assert remote.find(f"{bucket}/b.png") == [f"{bucket}/b.png"]


def test_pictures_are_read_from_what_was_found(bucket: str) -> None:
    frames = [remote.read_image(source) for source in remote.find(bucket)]
    assert [frame.source for frame in frames] == remote.find(bucket)
    colours = [frame.image[0, 0].tolist() for frame in frames if frame.image is not None]
    assert colours == [[0, 255, 0], [255, 0, 0], [0, 0, 255]]
    assert [frame.error is None for frame in frames] == [True] * 3 + [False] * 2
    assert "empty" in str(frames[4].error)


def test_what_is_too_large_or_gone_is_said(bucket: str) -> None:
    frame = remote.read_image(f"{bucket}/b.png", max_bytes=10)
    assert (frame.image, frame.error) == (None, "expected at most 10 bytes")
    assert "cannot be read" in str(remote.read_image(f"{bucket}/gone.png").error)
    size = len(png("blue"))
    assert np.any(remote.read_image(f"{bucket}/b.png", max_bytes=size).image)


@pytest.mark.parametrize(
    ("address", "error", "line"),
    [
        ("memory://nowhere", InputError, "memory://nowhere does not exist"),
        ("nobody://bucket", UsageError, "nobody://bucket: .*expected s3://, gs://"),
    ],
)
def test_wrong_addresses(address: str, error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=line):
        remote.find(address)


class NotFound(Exception):
    status = 404


class Refused(Exception):
    status = 403


@pytest.mark.parametrize(
    ("error", "cause", "line"),
    [
        (FileNotFoundError(), OSError(111, "Connection refused"), "read: Connection refused"),
        (FileNotFoundError(), Refused("403, Forbidden"), "read: 403, Forbidden"),
        (FileNotFoundError(), NotFound("404"), "does not exist"),
        (FileNotFoundError(), FileNotFoundError(), "does not exist"),
        (FileNotFoundError(), None, "does not exist"),
        (PermissionError(13, "Permission denied"), NotFound("404"), "read: Permission denied"),
    ],
)
def test_what_cannot_be_reached_is_not_said_to_be_absent(
    error: Exception, cause: Exception | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP a server that does not answer gives a FileNotFoundError, too."""

    class System:
        def info(self, _: str) -> None:
            raise error from cause

        def isfile(self, _: str) -> bool:
            return False

        exists = isfile

    monkeypatch.setattr(fsspec, "filesystem", lambda _: System())
    with pytest.raises(InputError, match=f"^http://host/a.png (cannot be )?{line}"):
        remote.find("http://host/a.png")


def test_a_folder_without_pictures(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/texts/a.txt", b"text")
    with pytest.raises(
        InputError, match=r"texts holds no picture; 1 file skipped \(1 \.txt\): expected \.jpg"
    ):
        remote.find(f"{bucket}/texts")


def test_other_files_of_a_folder_are_counted_but_for_hidden_ones(bucket: str) -> None:
    for name in ("b/.hidden", "b/TABLE.CSV", "b/licence"):
        fsspec.filesystem("memory").pipe(f"/bucket/{name}", b"text")
    skipped = Counter({".txt": 3})
    assert len(remote.find(bucket, skipped=skipped)) == 5
    assert skipped == {".txt": 4, ".csv": 1, "": 1}


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError(f"Install {protocol}fs to access {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UsageError, match="s3://bucket: Install s3fs"):
        remote.find("s3://bucket")
