"""One picture gives its faces; alone, in a list, in a stream, in batches of any size: the same."""

import base64
import dataclasses
import io
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import fervor
from fervor.errors import FervorError, InputError, ModelError, UsageError
from fervor.faces.alignment import TEMPLATE
from fervor.faces.cropper import FaceCrop
from fervor.faces.types import Box, Face, iou
from fervor.inference.prediction import to_rows
from fervor.inference.predictor import Prediction, Predictor
from fervor.io.prefetch import cores
from fervor.io.sources import Frame, Span, open_inputs
from fervor.outputs.drawing import annotated, draw
from fervor.outputs.tables import columns
from tests.support.models import LABELS, POINTS, SHARPNESS, spoil_blue, write_model
from tests.support.videos import portrait, write_video


PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SIDE = 40


def drawn(*colours: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A black picture with squares of 40 pixels side by side, each a face; the first is largest."""
    picture = np.zeros((60, 60 * max(len(colours), 1), 3), np.uint8)
    for number, colour in enumerate(colours):
        side = SIDE - number
        picture[10 : 10 + side, 60 * number + 10 : 60 * number + 10 + side] = colour
    return picture


class SquareDetector:
    """Finds the squares that `drawn` draws."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def detect(self, images: Sequence[NDArray[np.uint8]], *, passes: int = 3) -> list[list[Face]]:
        self.calls.append(len(images))
        return [self._squares(image) for image in images]

    def near(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Face | None]:
        faces = self._squares(image)
        return [max(faces, key=lambda face: iou(face.box, box), default=None) for box in boxes]

    def _squares(self, image: NDArray[np.uint8]) -> list[Face]:
        faces = []
        for left in range(10, image.shape[1], 60):
            side = int(image[10, left:].any(axis=1).argmin())
            if side:
                points = np.array([left, 10], np.float32) + side * TEMPLATE
                faces.append(Face((float(left), 10.0, float(side), float(side)), points, 0.9))
        return faces


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def predictor(model: Path, **options: Any) -> Predictor:
    return Predictor(model, **{"threads": 1, "detector": SquareDetector(), **options})


def labels(answer: Sequence[Prediction]) -> list[str | None]:
    return [prediction.label for prediction in answer]


def test_fields_in_their_order() -> None:
    names = [field.name for field in dataclasses.fields(Prediction)]
    assert names == [
        *("source", "frame", "time_s", "face", "track", "status", "box", "det_score"),
        *("label", "prob", "probabilities", "model", "error", "thumbnail", "covered"),
    ]


def test_names_of_the_package() -> None:
    assert fervor.Predictor is Predictor
    assert fervor.Prediction is Prediction
    assert fervor.to_rows is to_rows
    assert fervor.draw is draw
    with pytest.raises(AttributeError, match="nothing"):
        _ = fervor.nothing


def test_one_face(model: Path) -> None:
    (face,) = predictor(model)(drawn(GREEN))
    assert (face.source, face.frame, face.time_s, face.face, face.track) == ("", 0, None, 0, None)
    assert (face.status, face.error, face.model) == ("ok", None, "tiny")
    assert (face.box, face.det_score) == ((10.0, 10.0, 40.0, 40.0), 0.9)
    assert face.label == "happiness"
    assert tuple(face.probabilities) == LABELS
    assert face.prob == face.probabilities["happiness"] == max(face.probabilities.values())
    assert face.prob > 0.8
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.label = "anger"  # type: ignore[misc]


def test_temperature_divides_logits(tmp_path: Path) -> None:
    sharp = predictor(write_model(tmp_path / "one"))(drawn(RED))[0].probabilities
    soft = predictor(write_model(tmp_path / "two", temperature=2.0))(drawn(RED))[0].probabilities
    ratio = math.log(sharp["neutral"] / sharp["sadness"])
    assert math.log(soft["neutral"] / soft["sadness"]) == pytest.approx(ratio / 2, abs=1e-6)


def test_several_faces_and_none(model: Path) -> None:
    ask = predictor(model)
    answer = ask(drawn(BLUE, RED, GREEN))
    assert labels(answer) == ["sadness", "neutral", "happiness"]
    assert [face.face for face in answer] == [0, 1, 2]
    assert ask(drawn()) == []


def test_largest_keeps_one(model: Path) -> None:
    assert labels(predictor(model, faces="largest")(drawn(BLUE, RED))) == ["sadness"]


def test_precropped_takes_the_whole_picture(model: Path) -> None:
    ask = Predictor(model, faces="precropped")
    (face,) = ask(np.full((48, 32, 3), RED, np.uint8))
    assert (face.label, face.box, face.det_score) == ("neutral", (0, 0, 32, 48), None)
    best = math.exp(SHARPNESS) / (math.exp(SHARPNESS) + 2)
    assert face.prob == pytest.approx(best, abs=1e-6)
    (grey,) = ask(np.zeros((48, 48), np.uint8))
    assert grey.prob == pytest.approx(1 / 3)


def test_path_image_and_array_agree(model: Path, tmp_path: Path) -> None:
    pixels = drawn(GREEN, BLUE)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    ask = predictor(model)
    for picture in (path, str(path), Image.open(path), Image.fromarray(pixels)):
        answer = ask(picture)
        plain = [dataclasses.replace(face, source="") for face in answer]
        assert plain == ask(pixels)
    assert ask(path)[0].source == str(path)


PICTURES = [
    drawn(*colours) for n in range(4) for colours in itertools.product([RED, BLUE], repeat=n)
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batches_and_threads_change_nothing(model: Path, batch_size: int, threads: int) -> None:
    single = predictor(model)
    expected = [single(picture) for picture in PICTURES]
    answers = predictor(model, batch_size=batch_size, threads=threads)(PICTURES)
    assert [labels(answer) for answer in answers] == [labels(answer) for answer in expected]
    for face, other in zip(itertools.chain(*answers), itertools.chain(*expected), strict=True):
        assert face.box == other.box
        assert list(face.probabilities.values()) == pytest.approx(
            list(other.probabilities.values()), abs=1e-6
        )


def test_list_of_one_and_of_none(model: Path) -> None:
    ask = predictor(model)
    assert ask([drawn(RED)]) == [ask(drawn(RED))]
    assert ask([]) == []


def test_unreadable_files_stand_in_their_place(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    ask = predictor(model, batch_size=2)
    before, error, after = ask([drawn(RED), broken, drawn(BLUE, RED)])
    assert labels(before) + labels(after) == ["neutral", "sadness", "neutral"]
    assert error == ask(broken) == []
    assert caplog.messages == [f"{broken}: the file is empty (0 bytes)"] * 2
    (row,) = ask.rows(broken)
    assert [row[name] for name in ("status", "source", "face", "label", "prob", "error")] == [
        *("error", str(broken), None, None, None, "the file is empty (0 bytes)"),
    ]


def test_rows_of_everything(model: Path, tmp_path: Path) -> None:
    """No picture and no frame is left out, and the columns are the model's, whatever was found."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    ask = predictor(model)
    rows = ask.rows([drawn(RED, BLUE), drawn(), tmp_path])
    assert [row["status"] for row in rows] == ["ok", "ok", "no_face", "error"]
    assert rows[:2] == to_rows(ask(drawn(RED, BLUE)))
    assert ask.rows(drawn())[0].keys() == rows[0].keys() == set(columns(LABELS))
    assert ask.rows([]) == []
    with pytest.raises(InputError, match="does not exist"):
        ask.rows(tmp_path / "nowhere.jpg")


def test_whole_numbers_stay_whole_in_pandas(model: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas of the [dev] extra")
    table = pandas.DataFrame(predictor(model).rows([drawn(RED, BLUE), drawn()])).convert_dtypes()
    assert [str(table[name].dtype) for name in ("frame", "face", "schema")] == ["Int64"] * 3
    assert table["face"].tolist()[:2] == [0, 1]
    assert table["face"].isna().tolist() == [False, False, True]


def test_pictures_in_memory(model: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(drawn(RED)).save(file, "PNG")
    ask = predictor(model)
    expected = ask(drawn(RED))
    text = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    clear = np.dstack([drawn(RED), np.full(drawn(RED).shape[:2], 255, np.uint8)])
    forms: list[Any] = [file.getvalue(), bytearray(file.getvalue()), file, text, clear]
    assert [ask(form) for form in forms] == ask(forms) == [expected] * 5


def test_embeddings_of_each_face(model: Path) -> None:
    ask = predictor(model, batch_size=2)
    found = ask.embed(drawn(RED, GREEN, BLUE))
    np.testing.assert_allclose(found, np.eye(3), atol=1e-5)
    assert ask.embed(drawn()).shape == (0, 3)
    assert found.dtype == ask.embed(drawn()).dtype == np.float32
    with pytest.raises(InputError, match="cannot be read"):
        ask.embed(b"")


def test_draws_what_it_was_given(model: Path) -> None:
    picture = drawn(RED, BLUE)
    faces = predictor(model)(picture)
    shown = fervor.draw(picture, faces)
    assert shown.size == (6 * 120, 6 * 60)  # enlarged
    expected = annotated(picture, faces, [face.probabilities for face in faces])
    assert shown.tobytes() == expected.tobytes()
    with pytest.raises(InputError, match="cannot be read: the file is empty"):
        fervor.draw(b"", faces)


def test_a_notebook_shows_the_faces(model: Path) -> None:
    ask = predictor(model)
    several = ask([drawn(RED, BLUE), drawn(GREEN)])
    (face,) = several[1]
    assert face.thumbnail is not None
    image = Image.open(io.BytesIO(face.thumbnail))
    assert image.format == "JPEG" and max(image.size) <= 96
    middle = np.asarray(image)[image.height // 2, image.width // 2]
    assert middle.argmax() == 1
    assert "data:image/jpeg;base64," in face._repr_html_()
    for shown, count in ((several, 3), (several[0], 2), (several[1], 1)):
        assert shown._repr_html_().count("<img ") == count  # type: ignore[attr-defined]
    assert ask([drawn()])._repr_html_() == "<div>no face</div>"  # type: ignore[attr-defined]


def test_missing_path_raises(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        predictor(model)(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("name", ["a\0b", "a\0b.gif", "a\0b.mp4", "a\ud800"])
def test_a_name_that_no_file_can_have_is_a_missing_path(model: Path, name: str) -> None:
    ask = predictor(model)
    for call in (ask, ask.rows, ask.embed, lambda one: predictor(model, neutral=one)):
        with pytest.raises(InputError, match="does not exist"):
            call(name)


@pytest.mark.parametrize("picture", [np.zeros((4, 4, 3)), [np.zeros((4, 4))], 3, None])
def test_what_is_no_picture_raises(model: Path, picture: Any) -> None:
    with pytest.raises(FervorError, match="expected"):
        predictor(model)(picture)


def test_stream_gives_a_row_for_every_frame(model: Path, tmp_path: Path) -> None:
    Image.fromarray(drawn(RED, BLUE)).save(tmp_path / "a.png")
    Image.fromarray(drawn()).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("text")
    rows = list(predictor(model).stream(open_inputs([tmp_path])))
    assert [[row.status for row in answer] for answer in rows] == [
        *(["ok", "ok"], ["no_face"], ["error"]),
    ]


def test_stream_keeps_number_and_time(model: Path) -> None:
    frames = [Frame("film.mp4", n, n / 25, drawn(RED), None) for n in range(5)]
    rows = list(predictor(model, batch_size=2).stream(frames))
    assert [(row.source, row.frame, row.time_s) for (row,) in rows] == [
        ("film.mp4", n, n / 25) for n in range(5)
    ]


@pytest.mark.parametrize(
    ("source", "threads", "held"),
    [("film.mp4", 1, 4), ("film.mp4", 2, 4), ("webcam:0", 1, 1), ("webcam:0", 2, 1)],
)
def test_stream_may_be_endless(model: Path, source: str, threads: int, held: int) -> None:
    """A webcam's frames are answered at once, those of a file in batches.

    On two cores two groups are worked on and one is ready: of one, one and two frames.
    """
    taken = 0

    def frames() -> Iterator[Frame]:
        nonlocal taken
        for taken in itertools.count(1):
            live = source == "webcam:0"
            yield Frame(source, taken, taken / 25, drawn(GREEN), None, live=live)

    rows = predictor(model, batch_size=4, threads=threads).stream(frames())
    assert labels(next(rows)) == ["happiness"]
    assert taken == held


@pytest.mark.parametrize(
    ("batch_size", "threads", "sizes"),
    [
        (8, 1, [8, 8, 4]),
        (8, 2, [1, 1, 2, 2, 3, 3, 4, 4]),
        (2, 2, [1, 1, *[2] * 9]),
        (8, 3, [1, 1, 1, 2, 2, 2, 3, 3, 3, 2]),
    ],
)
def test_groups_grow_to_four_on_several_cores(
    model: Path, batch_size: int, threads: int, sizes: list[int]
) -> None:
    detector = SquareDetector()
    ask = predictor(model, detector=detector, batch_size=batch_size, threads=threads)
    assert len(ask([drawn(RED)] * 20)) == 20
    assert detector.calls == sizes


def test_thousands_of_threads_start_no_more_than_there_are_cores(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Predictor(model, threads=100_000)
    assert ask.threads == cores()
    assert [message for message in caplog.messages if message.startswith("threads=100000")]
    assert len(ask([drawn(RED)] * 3)) == 3


def test_a_stand_in_for_the_detector_stays_in_one_thread(model: Path) -> None:
    class Watching(SquareDetector):
        def detect(
            self, images: Sequence[NDArray[np.uint8]], *, passes: int = 3
        ) -> list[list[Face]]:
            seen.add(threading.get_ident())
            return super().detect(images, passes=passes)

    seen: set[int] = set()
    answers = predictor(model, threads=4, detector=Watching())([drawn(RED)] * 12)
    assert len(answers) == 12
    assert seen == {threading.get_ident()}


def test_pictures_share_the_cores(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the detector of fervor whole groups are at work in several threads."""
    threads = set()
    met = threading.Barrier(2, timeout=10)

    def cut(*_: Any) -> list[list[FaceCrop]]:
        threads.add(threading.get_ident())
        met.wait()  # never ends where one group waits for the other
        return [[]]

    monkeypatch.setattr("fervor.faces.cropper.FaceCropper.__call__", cut)
    answers = Predictor(model, threads=2, batch_size=2)([drawn(RED)] * 2)
    assert answers == [[], []]
    assert len(threads) == 2


def test_large_pictures_are_grouped_by_their_pixels(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fervor.inference.groups.GROUP_PIXELS", 60 * 60 + 1)
    detector = SquareDetector()
    predictor(model, detector=detector)([drawn(RED)] * 5)
    assert detector.calls == [2, 2, 1]


def test_abstaining_keeps_the_probabilities(model: Path) -> None:
    picture = drawn(GREEN)
    (sure,) = predictor(model)(picture)
    assert sure.prob is not None
    (unsure,) = predictor(model, abstain=sure.prob + 0.01)(picture)
    assert unsure == dataclasses.replace(sure, label="uncertain")
    assert predictor(model, abstain=sure.prob - 0.01)(picture) == [sure]
    assert predictor(model, abstain=np.float32(1))(picture) == [unsure]


def test_the_balanced_point_subtracts_what_is_stored(model: Path, tmp_path: Path) -> None:
    stored = write_model(tmp_path / "stored", operating_points=POINTS)
    faces = [drawn(colour) for colour in (RED, GREEN)]
    natural = Predictor(stored, faces="precropped").classify(faces)
    np.testing.assert_allclose(natural, Predictor(model, faces="precropped").classify(faces))
    balanced = Predictor(stored, faces="precropped", prior="balanced")
    odds = natural / np.exp(0.5 * np.array(POINTS["log_prior"]))
    np.testing.assert_allclose(balanced.classify(faces), odds / odds.sum(1, keepdims=True))
    assert balanced.name == "tiny (balanced)"


def test_abstain_auto_is_the_threshold_of_the_point(tmp_path: Path) -> None:
    stored = write_model(tmp_path / "stored", operating_points=POINTS, temperature=5.0)
    picture = drawn(GREEN)
    (sure,) = predictor(stored)(picture)
    assert sure.prob is not None and sure.prob < 0.99
    (unsure,) = predictor(stored, abstain="auto")(picture)
    assert unsure == dataclasses.replace(sure, label="uncertain")
    (answer,) = predictor(stored, abstain="auto", prior="balanced")(picture)
    assert answer.label != "uncertain"


def test_a_predictor_has_its_other_point(model: Path, tmp_path: Path) -> None:
    """Networks are shared; a threshold that is asked for as auto is the other point's."""
    stored = write_model(tmp_path / "stored", operating_points=POINTS, temperature=5.0)
    natural = predictor(stored, abstain="auto")
    balanced = natural.at("balanced")
    assert natural.at("natural") is natural and balanced.at("balanced") is balanced
    assert balanced.classifier._session is natural.classifier._session
    picture = drawn(GREEN)
    again = balanced.at("natural")
    for prior, one in (("natural", natural), ("balanced", balanced), ("natural", again)):
        assert one.prior == prior
        assert one(picture) == predictor(stored, abstain="auto", prior=prior)(picture)
    with pytest.raises(UsageError, match="stores no operating points"):
        predictor(model).at("balanced")
    resting = predictor(stored, neutral=drawn(RED))
    with pytest.raises(UsageError, match="make a predictor for each"):
        resting.at("balanced")


@pytest.mark.parametrize("options", [{"prior": "balanced"}, {"abstain": "auto"}])
def test_points_that_are_not_stored_are_one_line(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="stores no operating points; train it") as caught:
        Predictor(model, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="stored for a model's own classes; leave it or labels"):
        Predictor("vlm", labels=("smile", "frown"), **options)


SPOILT_POINTS: dict[str, Any] = {
    "no object": [],
    "too few": {**POINTS, "log_prior": [-1.0]},
    "no number": {**POINTS, "prior_share": "half"},
    "no logarithm": {**POINTS, "log_prior": [-1.0, 0.5, 0.0]},
    "no threshold": {**POINTS, "balanced": {"accuracy": 0.5}},
    "out of range": {**POINTS, "prior_share": 2},
}


@pytest.mark.parametrize("case", SPOILT_POINTS)
def test_spoilt_points_are_one_line(case: str, tmp_path: Path) -> None:
    stored = write_model(tmp_path / "stored", operating_points=SPOILT_POINTS[case])
    with pytest.raises(ModelError, match="operating_points") as caught:
        Predictor(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["embedded", "vlm"])
def test_shipped_models_store_their_points(name: str) -> None:
    assert Predictor(name, faces="precropped", prior="balanced", abstain="auto")


@pytest.mark.parametrize(
    "options",
    [
        {"faces": "some"},
        {"prior": "uniform"},
        {"threads": -1},
        {"batch_size": 0},
        {"abstain": 1.5},
        {"abstain": -0.1},
        {"whole_every": 0},
        {"smallest_face": -1},
    ],
)
def test_options_out_of_range(model: Path, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=rf"{name}=.*: expected"):
        Predictor(model, **options)


def video(*pictures: NDArray[np.uint8], source: str = "film.mp4") -> list[Frame]:
    return [Frame(source, n, n / 25, picture, None) for n, picture in enumerate(pictures)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_video_between_pictures(model: Path, batch_size: int) -> None:
    """Tracks belong to their video; rows stand in the order of the frames, whatever the batch."""
    frames = [
        Frame("a.png", 0, None, drawn(RED), None),
        *video(drawn(RED, BLUE), drawn(RED, BLUE), drawn()),
        Frame("film.mp4", 3, None, None, "damaged part of the video"),
        *video(drawn(BLUE), source="other.mp4"),
        *video(drawn(GREEN), source="other.mp4"),
        Frame("b.png", 0, None, drawn(RED), None),
    ]
    rows = list(predictor(model, batch_size=batch_size).stream(frames))
    assert [[(row.source[0], row.label, row.track) for row in answer] for answer in rows] == [
        [("a", "neutral", None)],
        [("f", "neutral", 0), ("f", "sadness", 1)],
        [("f", "neutral", 0), ("f", "sadness", 1)],
        [("f", None, None)],
        [("f", None, None)],
        [("o", "sadness", 0)],
        [("o", "happiness", 0)],
        [("b", "neutral", None)],
    ]
    assert [answer[0].status for answer in rows[3:5]] == ["no_face", "error"]


def test_with_frames_keeps_the_frames(model: Path) -> None:
    frames = video(drawn(RED), drawn())
    pairs = list(predictor(model).with_frames(frames))
    assert [frame for frame, _ in pairs] == frames
    assert [answer for _, answer in pairs] == list(predictor(model).stream(frames))


def test_precropped_video_is_one_track(model: Path) -> None:
    ask = Predictor(model, faces="precropped", threads=1)
    rows = list(ask.stream(video(*[np.full((20, 20, 3), RED, np.uint8)] * 3)))
    assert [[row.track for row in answer] for answer in rows] == [[0]] * 3


def test_largest_of_a_video(model: Path) -> None:
    rows = list(predictor(model, faces="largest").stream(video(drawn(RED, BLUE), drawn(RED, BLUE))))
    assert [labels(answer) for answer in rows] == [["neutral"]] * 2


def test_most_faces_of_a_picture_and_of_a_video(model: Path, tmp_path: Path) -> None:
    """Of a video too: a face that was there before does not stand beside the largest."""
    ask = predictor(model, most_faces=1)
    assert labels(ask(drawn(RED, BLUE))) == ["neutral"]
    frames = video(drawn(RED, BLUE), drawn(RED, BLUE))
    assert [labels(answer) for answer in ask.stream(frames)] == [["neutral"]] * 2
    file = tmp_path / "boxes.csv"
    file.write_text("source,x,y,width,height\na.png,10,10,9,9\na.png,70,10,39,39\n")
    given = Predictor(model, threads=1, boxes=file, most_faces=1)
    (answer,) = given.stream([Frame("a.png", 0, None, drawn(RED, BLUE), None)])
    assert labels(answer) == ["sadness"]


def test_a_face_that_grows_takes_the_place_of_the_one_before(model: Path) -> None:
    small, large = portrait(20, 100, 150), portrait(360, 100, 240)
    both = small.copy()
    both[:, 340:] = large[:, 340:]
    frames = video(*[small] * 3, *[both] * 12)
    answers = list(Predictor(model, threads=1, most_faces=1).stream(frames))
    assert [len(answer) for answer in answers] == [1] * 15
    last = answers[-1][0].box
    assert last is not None and last[0] > 340


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"faces": "precropped", "most_faces": 2}, "looks for no face: leave most_faces out"),
        ({"faces": "precropped", "whole_every": 2}, "looks for no face: leave whole_every out"),
        (
            {"faces": "precropped", "detector": SquareDetector(), "neutral": drawn(RED)},
            "looks for no face: leave detector out",
        ),
        ({"boxes": "boxes.csv", "whole_every": 2}, "none is looked for: leave whole_every out"),
        (
            {"boxes": "boxes.csv", "detector": SquareDetector(), "neutral": "auto"},
            "none is looked for: leave detector out",
        ),
        ({"detector": SquareDetector(), "smallest_face": 80}, "leave smallest_face out"),
    ],
)
def test_options_without_an_effect_are_refused(
    model: Path, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        Predictor(model, threads=1, **options)


class TestVideoFiles:
    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        pytest.importorskip("av", reason="needs fervor[video]")
        pictures = [portrait(200 + 3 * n, 100) for n in range(12)]
        pictures += [np.full((480, 640, 3), 128, np.uint8)] * 3
        return write_video(tmp_path / "clip.mp4", pictures)

    def test_a_path_gives_an_iterator_over_all_frames(self, clip: Path) -> None:
        ask = Predictor(threads=1, batch_size=4)
        answers: Any = ask(clip)
        assert iter(answers) is answers
        rows = list(answers)
        assert [len(answer) for answer in rows] == [1] * 12 + [0] * 3
        table = ask.rows(clip)
        assert [row["frame"] for row in table] == list(range(15))
        assert [row["time_s"] for row in table] == pytest.approx([n / 25 for n in range(15)])
        assert [row["status"] for row in table] == ["ok"] * 12 + ["no_face"] * 3
        assert {(row.label, row.track) for answer in rows[:12] for row in answer} == {
            ("happiness", 0)
        }
        again = list(ask.video(str(clip), span=Span(every=5)))
        assert [answer[0].frame for answer in again] == [0, 5, 10]

    def test_a_list_holds_pictures_only(self, clip: Path) -> None:
        with pytest.raises(InputError, match="is a video: expected a picture"):
            Predictor(threads=1)([clip])

    def test_answers_do_not_depend_on_batches_and_threads(self, clip: Path) -> None:
        expected = [row for answer in Predictor(threads=1).video(clip) for row in answer]
        for options in ({"threads": 2, "batch_size": 5}, {"threads": 1, "batch_size": 1}):
            rows = [row for answer in Predictor(**options).video(clip) for row in answer]  # type: ignore[arg-type]
            assert len(rows) == len(expected)
            for row, other in zip(rows, expected, strict=True):
                assert (row.frame, row.track, row.box) == (other.frame, other.track, other.box)
                assert list(row.probabilities.values()) == pytest.approx(
                    list(other.probabilities.values()), abs=1e-5
                )


class TestOwnNeutral:
    """The tiny model takes blue for sadness; a blue face at rest is corrected towards neutral."""

    MAUVE = (120, 0, 160)

    def test_a_given_picture(self, model: Path) -> None:
        plain, own = predictor(model), predictor(model, neutral=drawn(self.MAUVE))
        assert labels(plain(drawn(self.MAUVE))) == ["sadness"]
        assert labels(own(drawn(self.MAUVE))) == ["neutral"]
        assert labels(own(drawn(GREEN))) == ["happiness"]
        before, after = plain(drawn(RED))[0], own(drawn(RED))[0]
        assert after.probabilities["sadness"] < before.probabilities["sadness"]
        assert sum(after.probabilities.values()) == pytest.approx(1)

    @pytest.mark.parametrize("own_detector", [True, False])
    def test_its_face_is_looked_for_beside_given_boxes(
        self, model: Path, tmp_path: Path, own_detector: bool
    ) -> None:
        file = tmp_path / "boxes.csv"
        file.write_text("source,x,y,width,height\n")
        detector = SquareDetector() if own_detector else None
        picture = drawn(self.MAUVE) if own_detector else portrait(200, 100)
        expected = Predictor(model, threads=1, detector=detector, neutral=picture)._rest
        given = Predictor(model, threads=1, detector=detector, boxes=file, neutral=picture)
        np.testing.assert_allclose(given._rest, expected)  # type: ignore[arg-type]
        assert given.smallest_side is None  # and no face of what it is asked

    @pytest.mark.parametrize("learnt", [False, True])
    def test_explanations_are_of_the_answer_that_a_call_gives(
        self, model: Path, learnt: bool
    ) -> None:
        ask = predictor(model, neutral="auto" if learnt else drawn(self.MAUVE))
        image = drawn(self.MAUVE, BLUE)
        explanations = ask.explain(image)
        assert [one.prediction for one in explanations] == ask(image)
        assert explanations[0].answer == ("sadness" if learnt else "neutral")
        for one, plain in zip(explanations, predictor(model).explain(image), strict=True):
            for label, heat in one.heat.items():  # places of one colour: blurring changes little
                assert np.abs(heat - plain.heat[label]).max() < 0.1

    def test_learnt_from_a_track(self, model: Path) -> None:
        frames = [Frame("film.mp4", n, n / 10, drawn(self.MAUVE), None) for n in range(40)]
        rows = [row for (row,) in predictor(model, neutral="auto").stream(frames)]
        assert labels(rows[:29]) == ["sadness"] * 29
        assert labels(rows[29:]) == ["neutral"] * 11
        assert labels(predictor(model, neutral="auto")(drawn(self.MAUVE))) == ["sadness"]

    def test_wrong_use(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="neutral picture: shows no face; expected a face"):
            predictor(model, neutral=drawn())
        with pytest.raises(InputError, match="does not exist"):
            predictor(model, neutral=tmp_path / "nowhere.png")
        (tmp_path / "empty.png").write_bytes(b"")
        with pytest.raises(InputError, match=r"empty\.png: the file is empty"):
            predictor(model, neutral=tmp_path / "empty.png")
        other = write_model(tmp_path / "other", labels=("joy", "grief"))
        with pytest.raises(ModelError, match="'neutral'"):
            list(predictor(other, neutral="auto").stream(video(drawn(RED))))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_pixels_give_the_same_numbers(tmp_path: Path, threads: int) -> None:
    """The shipped model: from PNG, an array, alone, among others, in a film; and from JPEG."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ask = Predictor(threads=threads)
    (expected,) = Predictor(threads=1)(pixels)
    numbers = list(expected.probabilities.values())
    crowd = ask([drawn(RED), tmp_path / "a.png", pixels, PHOTOGRAPH, portrait(10, 10)])
    (in_video,) = ask.stream([Frame("film.mp4", 0, 0.0, pixels, None)])
    for (face,) in (ask(tmp_path / "a.png"), ask(PHOTOGRAPH), *crowd[1:4], in_video):
        assert face.box == pytest.approx(expected.box, abs=1e-3)
        assert list(face.probabilities.values()) == pytest.approx(numbers, abs=1e-5)


def test_model_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist: expected a model folder"):
        Predictor(tmp_path / "nowhere")


def test_real_detector_finds_the_photographs_face(model: Path) -> None:
    (face,) = Predictor(model, threads=1)(PHOTOGRAPH)
    assert face.box is not None
    x, y, width, height = face.box
    with Image.open(PHOTOGRAPH) as image:
        assert 0 <= x < x + width <= image.width
        assert 0 <= y < y + height <= image.height
    assert face.det_score is not None
    assert face.det_score > 0.9


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (3000, 1, 3), (2, 5, 3)])
def test_odd_shapes_with_the_real_detector(model: Path, shape: tuple[int, int, int]) -> None:
    assert Predictor(model, threads=1)(np.full(shape, 128, np.uint8)) == []


# Answers that are no finite numbers


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    return spoil_blue(write_model(tmp_path / "spoilt"))


def test_an_answer_that_is_no_number_is_an_error(spoilt: Path) -> None:
    predictor = Predictor(spoilt, detector=SquareDetector())
    ((first, second, third),) = predictor.stream(
        [Frame("", 0, None, drawn(RED, BLUE, GREEN), None)]
    )
    assert (first.status, third.status) == ("ok", "ok") and (first.face, third.face) == (0, 2)
    assert second.status == "error" and second.error is not None
    assert second.error == "the model's answer to face 1 is no finite number"
    assert (second.face, second.box, second.label, second.prob) == (None, None, None, None)
    assert not second.probabilities
    good = Predictor(write_model(spoilt.with_name("good")), detector=SquareDetector())
    known = [good(drawn(RED, BLUE, GREEN))[place] for place in (0, 2)]
    assert [first.probabilities, third.probabilities] == [one.probabilities for one in known]
    assert [face.face for face in predictor(drawn(RED, BLUE, GREEN))] == [0, 2]
    for row in predictor.rows(drawn(BLUE)):
        assert (row["status"], row["label"], row["prob"]) == ("error", None, None)


def test_explanations_and_crops_refuse_it(spoilt: Path) -> None:
    predictor = Predictor(spoilt, detector=SquareDetector())
    assert len(predictor.explain(drawn(RED))) == 1
    with pytest.raises(ModelError, match="answer to face 1 is no finite number"):
        predictor.explain(drawn(RED, BLUE))
    red, blue = (np.full((9, 9, 3), colour, np.uint8) for colour in (RED, BLUE))
    with pytest.raises(ModelError, match="answer to face 1 is no finite number"):
        predictor.classify([red, blue])
    assert predictor.embed(drawn(RED, BLUE)).shape == (2, 3)  # of before the logits
    with pytest.raises(ModelError, match=r"neutral picture .*answer to face 0"):
        Predictor(spoilt, detector=SquareDetector(), neutral=drawn(BLUE))


def test_a_track_learns_nothing_of_it(spoilt: Path) -> None:
    """A spoilt frame is an error, and the next ones are what they would be without it."""
    answers = {}
    for name, colours in {"without": [RED] * 9, "with": [RED] * 4 + [BLUE] + [RED] * 5}.items():
        predictor = Predictor(spoilt, faces="precropped", neutral="auto")
        shown = [np.full((9, 9, 3), colour, np.uint8) for colour in colours]
        frames = [
            Frame("video.mp4", number, number / 5, image, None)
            for number, image in enumerate(shown)
        ]
        answers[name] = [faces[0] for faces in predictor.stream(frames)]
    statuses = [answer.status for answer in answers["with"]]
    assert statuses == ["ok"] * 4 + ["error"] + ["ok"] * 5
    last = answers["with"][-1]
    assert sum(last.probabilities.values()) == pytest.approx(1)


def test_a_graph_that_answers_in_another_shape_is_one_line(tmp_path: Path) -> None:
    model = write_model(tmp_path, grid=[5, 7])
    with pytest.raises(ModelError, match=r"places of shape \(49, 3\): its grid .* say \(35, 3\)"):
        Predictor(model, faces="precropped").explain(np.zeros((9, 9, 3), np.uint8))
