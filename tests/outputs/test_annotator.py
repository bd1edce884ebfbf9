"""A folder of drawings: names, formats, times of a video, and nothing half-written."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fervor.errors import UsageError
from fervor.inference.prediction import Prediction
from fervor.io.atomic import lock_folder
from fervor.io.frame import Frame
from fervor.io.sources import Span
from fervor.io.video import read_video
from fervor.outputs import annotator as annotate
from fervor.outputs.annotator import Annotator
from tests.outputs.test_drawing import shown


GREY = np.full((90, 120, 3), 90, np.uint8)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def touched(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [str(folder / name) for name in names]


def write(folder: Path, sources: Sequence[str], *, broken: Sequence[str] = ()) -> None:
    with Annotator(folder, sources) as annotator:
        for source in sources:
            error = "damaged" if source in broken else None
            frame = Frame(source, 0, None, None if error else GREY, error)
            prediction = replace(shown("anger", (30, 20, 40, 50)), source=source)
            if error:
                empty: dict[str, Any] = {"box": None, "prob": None, "probabilities": {}}
                prediction = replace(prediction, status="error", error=error, **empty)
            annotator.write(frame, [prediction])


def test_pictures_keep_their_place_and_format(tmp_path: Path) -> None:
    names = ("in/a.jpg", "in/b.PNG", "in/sub/a.jpg", "in/c.webp", "in/d.bmp", "in/e.heic")
    sources = touched(tmp_path, *names)
    write(tmp_path / "out", sources)
    assert files(tmp_path / "out") == [
        *("a.jpg", "b.PNG", "c.webp", "d.bmp.png", "e.heic.png", "sub/a.jpg"),
    ]
    kinds = {"a.jpg": "JPEG", "b.PNG": "PNG", "c.webp": "WEBP", "d.bmp.png": "PNG"}
    for name, kind in kinds.items():
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == (kind, (480, 360))


@pytest.mark.parametrize("name", ["wide.webp", "wide.jpg", "tall.webp"])
def test_long_thin_pictures_fit_their_format(name: str, tmp_path: Path) -> None:
    """WebP holds 16,383 pixels a side, JPEG 65,500; words below a face would lengthen both."""
    wide = name.startswith("wide")
    image = np.full((40, 9000, 3) if wide else (16_383, 40, 3), 90, np.uint8)
    height, width = image.shape[:2]
    (source,) = touched(tmp_path, name)
    face = replace(shown("anger", (0, 0, width, height)), source=source)
    with Annotator(tmp_path / "out", [source]) as annotator:
        annotator.write(Frame(source, 0, None, image, None), [face])
    with Image.open(tmp_path / "out" / name) as drawn:
        assert max(width, height) * 0.9 < max(drawn.size) <= 65_500
        if name.endswith("webp"):
            assert max(drawn.size) <= 16_383


def test_damaged_pictures_are_not_drawn(tmp_path: Path) -> None:
    sources = touched(tmp_path, "in/a.png", "in/b.png")
    write(tmp_path / "out", sources, broken=sources[1:])
    assert files(tmp_path / "out") == ["a.png"]


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    sources = touched(tmp_path, "in/a.png", "in/b.png")
    with pytest.raises(UsageError, match=r"a\.png would be overwritten; name another folder"):
        Annotator(tmp_path / "in", sources)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UsageError, match="would be overwritten"):
        Annotator(tmp_path / "link", sources)
    with pytest.raises(UsageError, match="is a file: expected a folder"):
        Annotator(Path(sources[0]), touched(tmp_path, "other/c.png"))


def test_what_is_named_like_a_camera_is_no_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = touched(Path(), "webcam:0/a.png", "webcam:0/b.png")
    with pytest.raises(UsageError, match=r"a\.png would be overwritten"):
        Annotator(Path("webcam:0"), sources)
    write(Path("out"), sources)
    assert files(Path("out")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "other", ["clip.mp4", "clip-timeline.png", "Clip-Timeline.PNG", "clip.partial.mp4"]
)
def test_no_input_is_overwritten_by_another_s_drawing(other: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    video, victim = touched(tmp_path, "clip.avi", other)
    names = annotate.output_names([video, victim])
    assert len({name.lower() for name in names.values()}) == 2
    if other.islower():
        with pytest.raises(UsageError, match=rf"{other} would be overwritten; name another folder"):
            Annotator(tmp_path, [video, victim])
    elsewhere = annotate.output_names([video, victim])
    assert elsewhere[video] == "clip.mp4" and elsewhere[victim] != other


def test_several_drawings_of_a_source_begin_alike_for_no_other(tmp_path: Path) -> None:
    sources = touched(tmp_path, "a.jpg", "A.png", "a.webp", "b.jpg")
    names = annotate.output_names(sources, several=True)
    assert list(names.values()) == ["a.jpg", "A-2.png", "a-3.webp", "b.jpg"]


def test_names_do_not_collide(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs fervor[video]")
    sources = touched(tmp_path, "clip.mov", "clip.avi", "clip.mp4.png", "a.jpg")
    names = annotate.output_names([*sources, "webcam:0"])
    assert list(names.values()) == [
        *("clip.mp4", "clip-2.mp4", "clip.mp4.png", "a.jpg", "webcam-0.mp4"),
    ]


class TestFilm:
    @pytest.fixture(autouse=True)
    def _needs_av(self) -> None:
        pytest.importorskip("av", reason="needs fervor[video]")

    def video(
        self, folder: Path, times: Sequence[float], *, size: tuple[int, int] = (401, 601)
    ) -> None:
        source = str(folder / "clip.mkv")
        with Annotator(folder / "out", [source]) as annotator:
            for number, time in enumerate(times):
                image = np.full((*size, 3), 90, np.uint8)
                one = replace(shown("anger", (100, 90, 80, 90)), source=source)
                one = replace(one, frame=number, time_s=time, track=0)
                annotator.write(Frame(source, number, time, image, None), [one])

    def test_frames_keep_their_times(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        times = [0.0, *np.cumsum(random.uniform(0.005, 0.3, 20)).tolist()]
        self.video(tmp_path, times)
        assert files(tmp_path / "out") == ["clip-timeline.html", "clip-timeline.png", "clip.mp4"]
        read = list(read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**7))
        assert [frame.time_s for frame in read] == pytest.approx(times, abs=0.0005)
        assert read[5].image is not None
        assert read[5].image.shape == (400, 600, 3)  # even sides
        changed = np.abs(read[5].image.astype(int) - 90).max(axis=-1) > 40
        assert changed[60:190, 90:190].any()
        assert not changed[250:, 350:].any()

    def test_times_that_stand_still_are_kept_apart(self, tmp_path: Path) -> None:
        self.video(tmp_path, [0.0, 0.0, 0.0, 0.1])
        read = list(read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**7))
        assert len(read) == 4

    def test_a_long_thin_video_is_drawn(self, tmp_path: Path) -> None:
        """Enlarged as its height asks it would be 32,000 pixels wide, and codecs end at 16,384."""
        self.video(tmp_path, [0.0, 0.1], size=(40, 4000))
        (frame, _) = read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**8)
        assert frame.shape == (160, 16_000)

    def test_a_gap_of_hours_is_an_hour(self, tmp_path: Path) -> None:
        """Codecs take no step of ten hours; what comes after it keeps its distances."""
        self.video(tmp_path, [0.0, 0.1, 40_000.0, 40_000.1])
        read = list(read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**7))
        assert [frame.time_s for frame in read] == pytest.approx([0.0, 0.1, 3600.1, 3600.2])

    def test_the_same_video_again_is_a_new_film(self, tmp_path: Path) -> None:
        source = str(tmp_path / "clip.mkv")
        one = replace(shown("anger", (10, 10, 40, 40)), source=source, track=0)
        with Annotator(tmp_path / "out", [source, source]) as annotator:
            for number in (0, 1, 2, 0, 1):
                frame = Frame(source, number, number / 10, GREY, None)
                annotator.write(frame, [replace(one, time_s=number / 10)])
        read = list(read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**7))
        assert [frame.time_s for frame in read] == pytest.approx([0.0, 0.1])

    def test_an_interruption_leaves_the_earlier_video(self, tmp_path: Path) -> None:
        source = str(tmp_path / "clip.mkv")
        one = replace(shown("anger", (10, 10, 40, 40)), source=source, time_s=0.0, track=0)
        with pytest.raises(KeyboardInterrupt), Annotator(tmp_path / "out", [source]) as annotator:
            annotator.write(Frame(source, 0, 0.0, GREY, None), [one])
            assert "clip.mp4" not in files(tmp_path / "out")
            (tmp_path / "out" / "clip.mp4").write_bytes(b"earlier")
            raise KeyboardInterrupt
        partial = tmp_path / "out" / "clip.partial.mp4"
        read = list(read_video(str(partial), Span(), max_pixels=10**7))
        assert [frame.error for frame in read] == [None]
        assert files(tmp_path / "out") == ["clip.mp4", "clip.partial.mp4"]
        assert (tmp_path / "out" / "clip.mp4").read_bytes() == b"earlier"

    def test_two_runs_do_not_draw_into_one_folder(self, tmp_path: Path) -> None:
        source = str(tmp_path / "clip.mkv")
        with (
            lock_folder(tmp_path / "out"),
            pytest.raises(UsageError, match="out is being written by another process"),
            Annotator(tmp_path / "out", [source]),
        ):
            pass

    def test_a_video_that_cannot_be_read_leaves_nothing(self, tmp_path: Path) -> None:
        source = str(tmp_path / "clip.mkv")
        empty: dict[str, Any] = {"box": None, "prob": None, "probabilities": {}}
        one: Prediction = replace(shown("anger", (0, 0, 1, 1)), source=source, **empty)
        with Annotator(tmp_path / "out", [source]) as annotator:
            annotator.write(Frame(source, 0, None, None, "no video"), [one])
        assert files(tmp_path / "out") == []

    def test_a_frame_of_another_size_fits_in(self, tmp_path: Path) -> None:
        source = str(tmp_path / "clip.mkv")
        one = replace(shown("anger", (10, 10, 40, 40)), source=source, track=0)
        with Annotator(tmp_path / "out", [source]) as annotator:
            for number, size in enumerate([(400, 600), (700, 500), (90, 120)]):
                frame = Frame(source, number, number / 10, np.full((*size, 3), 200, np.uint8), None)
                annotator.write(frame, [replace(one, time_s=number / 10)])
        read = list(read_video(str(tmp_path / "out" / "clip.mp4"), Span(), max_pixels=10**7))
        assert [frame.image.shape for frame in read if frame.image is not None] == [
            (400, 600, 3)
        ] * 3


@pytest.mark.parametrize(
    "name", ["x" * 250 + ".jpg", "表" * 83 + ".bmp", "a" * 254, "." + "y" * 253]
)
def test_the_longest_names_are_drawn(name: str, tmp_path: Path) -> None:
    source = tmp_path / name
    (drawn,) = annotate.output_names([str(source)]).values()
    assert len(os.fsencode(drawn)) <= 210 and annotate.output_names([str(source)])[str(source)]
    one = replace(shown("anger", (10, 10, 40, 40)), source=str(source))
    with Annotator(tmp_path / "out", [str(source)]) as annotator:
        annotator.write(Frame(str(source), 0, None, GREY, None), [one])
    assert files(tmp_path / "out") == [drawn]
