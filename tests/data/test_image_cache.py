"""Decoded splits: what is stored, when it is decoded anew, kills, full disks, other processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from fervor.data import image_cache
from fervor.data.datasets import Sample
from fervor.data.image_cache import INDEX, PART, Reading, decoded
from fervor.errors import DataError
from fervor.io.image import to_input
from tests.support.drawn import face


EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
PLAIN = Reading(64)
RED = np.dstack([np.full((30, 30), 200, np.uint8), *[np.full((30, 30), 20, np.uint8)] * 2])


def save(folder: Path, pictures: list[NDArray[np.uint8]]) -> list[Sample]:
    folder.mkdir(exist_ok=True, parents=True)
    found = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:04d}.png")
        found.append(Sample(str(folder / f"{number:04d}.png"), "anger"))
    return found


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return save(tmp_path / "faces", [face("anger", seed) for seed in range(70)])


def slowly(samples: list[Sample], size: int) -> NDArray[np.uint8]:
    """One picture after the other, by the rule as it is stated."""
    arrays = [np.asarray(Image.open(sample.path).convert("RGB")) for sample in samples]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or max(max(shape) for shape in shapes) > size:
        arrays = [
            np.rint(to_input(array, size) * 255).astype(np.uint8).transpose(1, 2, 0)
            for array in arrays
        ]
    grey = all((array == array[:, :, :1]).all() for array in arrays)
    return np.stack(
        [array[None, :, :, 0] if grey else array.transpose(2, 0, 1) for array in arrays]
    )


STREAMS = {
    "grey": [face("fear", s) for s in range(40)],
    "colour": [np.dstack([face("fear", s), face("fear", s), face("anger", s)]) for s in range(40)],
    "one in colour, last": [*(face("fear", s, side=30) for s in range(39)), RED],
    "grey stored as colour": [np.dstack([face("fear", s)] * 3) for s in range(5)],
    "other size, last": [*(face("fear", s) for s in range(39)), face("anger", side=60)],
    "other size and colour": [face("fear"), RED, face("fear", side=90)],
    "not square": [face("fear", s)[:, :40] for s in range(3)],
    "larger": [face("fear", s, side=90) for s in range(3)],
    "the network's size, then smaller": [face("fear", side=64), face("fear", side=20)],
}


@pytest.mark.parametrize("case", STREAMS)
def test_what_is_stored(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "BLOCK_BYTES", 40_000)  # several blocks
    samples = save(tmp_path / "faces", STREAMS[case])
    expected = slowly(samples, 64)
    first, again, memory = (
        decoded(samples, PLAIN, folder)
        for folder in (str(tmp_path / "cache"), str(tmp_path / "cache"), "")
    )
    for found in (first, again, memory):
        assert np.array_equal(found.images, expected)
        assert found.missing == ()
    assert isinstance(first.images, np.memmap) and not first.images.flags.writeable
    (place,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in place.iterdir()} == {"images.npy", "index.json", "lock"}


def test_pictures_out_of_a_table(tmp_path: Path) -> None:
    samples = [Sample("", "fear", {}, face("fear", s).tobytes(), 48) for s in range(3)]
    found = decoded(samples, PLAIN, str(tmp_path))
    assert np.array_equal(found.images[:, 0], np.stack([face("fear", s) for s in range(3)]))
    others = [Sample("", "fear", {}, face("anger", s).tobytes(), 48) for s in range(3)]
    assert not np.array_equal(decoded(others, PLAIN, str(tmp_path)).images, found.images)


def test_missing_faces_are_named_by_their_rows(tmp_path: Path) -> None:
    (nobody,) = save(tmp_path, [np.full((120, 120, 3), 90, np.uint8)])
    samples = [nobody, Sample(str(EXAMPLE), "happiness"), nobody]
    for folder in (str(tmp_path / "cache"), str(tmp_path / "cache"), ""):
        found = decoded(samples, Reading(112, "largest"), folder)
        assert found.missing == (0, 2)
        assert found.images.shape == (3, 3, 48, 48)
        assert found.images[1].std() > 20


def test_a_warning_filter_survives_the_threads(samples: list[Sample]) -> None:
    before = list(warnings.filters)
    decoded(samples, PLAIN)
    assert list(warnings.filters) == before


# When it is decoded anew

CHANGES: dict[str, Callable[[list[Sample]], tuple[list[Sample], Reading]]] = {
    "nothing": lambda samples: (samples, PLAIN),
    "another picture": lambda samples: (_rewritten(samples), PLAIN),
    "the same bytes at another time": lambda samples: (_touched(samples), PLAIN),
    "the order": lambda samples: (samples[::-1], PLAIN),
    "one picture less": lambda samples: (samples[1:], PLAIN),
    "the size": lambda samples: (samples, Reading(32)),
    "the faces": lambda samples: (samples, Reading(64, "largest")),
    "the margin": lambda samples: (samples, Reading(64, margin=0.1)),
    "a box": lambda samples: (
        [Sample(s.path, s.label, box=(1, 2, 30, 30)) for s in samples],
        PLAIN,
    ),
}


def _rewritten(samples: list[Sample]) -> list[Sample]:
    Image.fromarray(face("happiness")).save(samples[5].path)
    return samples


def _touched(samples: list[Sample]) -> list[Sample]:
    os.utime(samples[5].path, ns=(0, 5))
    return samples


@pytest.mark.parametrize("case", CHANGES)
def test_whatever_matters_makes_a_new_cache(
    case: str, samples: list[Sample], tmp_path: Path
) -> None:
    samples = samples[:8]
    folder = tmp_path / "cache"
    decoded(samples, PLAIN, str(folder))
    changed, reading = CHANGES[case](samples)
    found = decoded(changed, reading, str(folder))
    assert len(list(folder.iterdir())) == (1 if case == "nothing" else 2)
    assert np.array_equal(found.images, decoded(changed, reading).images)


def test_another_version_reads_none_of_this_one(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded(samples[:2], PLAIN, str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "VERSION", image_cache.VERSION + 1)
    decoded(samples[:2], PLAIN, str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_labels_are_not_part_of_it(samples: list[Sample], tmp_path: Path) -> None:
    decoded(samples[:2], PLAIN, str(tmp_path / "cache"))
    decoded(
        [Sample(s.path, "fear", {"fear": 1.0}) for s in samples[:2]], PLAIN, str(tmp_path / "cache")
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1


# Interruptions


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_stopped_decoding_goes_on(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture in the third block is unreadable; then it is mended, the part cut anywhere."""
    monkeypatch.setattr(image_cache, "BLOCK_BYTES", 16 * 48 * 48)
    samples = save(tmp_path / "faces", [face("anger", seed) for seed in range(70)])
    content, status = Path(samples[40].path).read_bytes(), os.stat(samples[40].path)
    broken = b"x" * len(content)
    Path(samples[40].path).write_bytes(broken)
    os.utime(samples[40].path, ns=(0, status.st_mtime_ns))
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"0040\.png cannot be read as a picture"):
        decoded(samples, PLAIN, str(folder))
    (place,) = folder.iterdir()
    assert not (place / INDEX).exists()
    size = (place / PART).stat().st_size
    assert size == 128 + 32 * 48 * 48
    os.truncate(place / PART, size - cut if cut >= 0 else 50)  # as a kill within a write leaves it
    if cut < 0:
        (place / image_cache.STATE).unlink()
    Path(samples[40].path).write_bytes(content)
    os.utime(samples[40].path, ns=(0, status.st_mtime_ns))
    read: list[str] = []
    monkeypatch.setattr(
        image_cache,
        "cut",
        lambda s, *a, _cut=image_cache.cut, **k: (read.append(s.path), _cut(s, *a, **k))[1],
    )
    found = decoded(samples, PLAIN, str(folder))
    assert np.array_equal(found.images, slowly(samples, 64))
    assert len(set(read)) == {0: 38, 7: 54, 100: 54, -1: 70}[cut]


KILLED = """
import sys, time
from pathlib import Path
from fervor.data import image_cache
from fervor.data.image_cache import Reading, decoded
from fervor.data.datasets import Sample

image_cache.BLOCK_BYTES = 16 * 48 * 48
cut = image_cache.cut
def slow(*given, **named):
    time.sleep(0.02)
    return cut(*given, **named)
image_cache.cut = slow
faces = sorted(Path(sys.argv[1]).iterdir())
decoded([Sample(str(path), "anger") for path in faces], Reading(64), sys.argv[2])
"""


def test_a_killed_process_leaves_nothing_half_read(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "faces"), str(folder)]
    process = subprocess.Popen(command)
    parts: list[Path] = []
    while process.poll() is None and not (parts and parts[0].stat().st_size > 128 + 16 * 48 * 48):
        parts = list(folder.glob(f"*/{PART}"))
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (place,) = folder.iterdir()
    assert not (place / INDEX).exists()
    assert np.array_equal(decoded(samples, PLAIN, str(folder)).images, slowly(samples, 64))


def test_processes_that_want_the_same_split_wait(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "faces"), str(folder)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert np.array_equal(decoded(samples, PLAIN, str(folder)).images, slowly(samples, 64))


def test_threads_that_want_the_same_split_wait(samples: list[Sample], tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: decoded(samples, PLAIN, str(tmp_path / "cache")), range(3)))
    assert all(np.array_equal(one.images, slowly(samples, 64)) for one in found)


def test_what_was_stopped_long_ago_is_removed(samples: list[Sample], tmp_path: Path) -> None:
    left = {}
    for name, age in {"old": 2.0, "new": 0.5, "busy": 2.0, "done": 2.0}.items():
        left[name] = tmp_path / "cache" / f"pictures-{name}"
        left[name].mkdir(parents=True)
        (left[name] / (INDEX if name == "done" else PART)).write_text("{}")
        then = time.time() - age * image_cache.STALE
        os.utime(left[name], (then, then))
    other = tmp_path / "cache" / "views-of-somebody"
    other.mkdir()
    os.utime(other, (0, 0))
    with FileLock(left["busy"] / image_cache.LOCK):
        os.utime(left["busy"], (0, 0))
        decoded(samples[:3], PLAIN, str(tmp_path / "cache"))
    assert {name for name, place in left.items() if place.exists()} == {"new", "busy", "done"}
    assert other.exists()


# What goes wrong


def test_a_cache_that_cannot_be_written(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file cannot be used \(Not a directory\): name another"):
        decoded(samples, PLAIN, str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_cache_without_permission(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"locked cannot be used \(Permission denied\)"):
        decoded(samples, PLAIN, str(tmp_path / "locked"))


FULL = """
import sys
from pathlib import Path
from fervor.data.image_cache import Reading, decoded
from fervor.data.datasets import Sample
from fervor.errors import DataError

faces = sorted(Path(sys.argv[1]).iterdir())
try:
    decoded([Sample(str(path), "anger") for path in faces], Reading(64), sys.argv[2])
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or sys.platform != "linux", reason="needs a small tmpfs"
)
def test_a_full_disk_is_one_line_and_goes_on_later(samples: list[Sample], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size=64k fervor {small} && exec {sys.executable} -c '{FULL}' "
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{script} {tmp_path / 'faces'} {small}"],
        capture_output=True,
        text=True,
    )
    if "mount" in found.stderr or "unshare" in found.stderr:
        pytest.skip("this machine lets nobody mount")
    assert found.returncode == 0, found.stderr
    assert "cannot be used (No space left on device): name another" in found.stdout


def test_a_damaged_index_is_named(samples: list[Sample], tmp_path: Path) -> None:
    decoded(samples[:2], PLAIN, str(tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    assert json.loads((place / INDEX).read_text())["pictures"] == 2
    (place / "images.npy").unlink()
    with pytest.raises(DataError, match="cannot be used"):
        decoded(samples[:2], PLAIN, str(tmp_path / "cache"))
