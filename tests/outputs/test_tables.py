"""One schema in every format; hostile names do no harm; a killed run leaves its rows."""

import builtins
import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.errors import UsageError
from fervor.inference.prediction import WHOLE_NUMBERS, Prediction, row_of, to_rows
from fervor.inference.smoothing import Smoother
from fervor.io.csv_cells import original
from fervor.outputs.tables import FORMATS, TextTable, check_output, columns, open_table


LABELS = ("neutral", "happiness", "anger")
COLUMNS = (
    *("source", "frame", "time_s", "face", "track", "status", "x", "y", "width", "height"),
    *("det_score", "label", "prob", "p_neutral", "p_happiness", "p_anger"),
    *("model", "schema", "error"),
)


def face(source: str = "a.jpg", **changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "source": source,
        "frame": 0,
        "time_s": None,
        "face": 0,
        "track": None,
        "status": "ok",
        "box": (1.5, 2.0, 30.25, 40.0),
        "det_score": 0.9,
        "label": "happiness",
        "prob": 0.7,
        "probabilities": dict(zip(LABELS, (0.2, 0.7, 0.1), strict=True)),
        "model": "tiny",
        "error": None,
    }
    return Prediction(**{**values, **changes})


def without_face(status: str, error: str | None = None, source: str = "b.jpg") -> Prediction:
    empty = {"face": None, "box": None, "det_score": None, "label": None, "prob": None}
    return face(source, status=status, error=error, probabilities={}, **empty)


ROWS = [
    [face(), face(face=1, box=(5.0, 6.0, 7.0, 8.0), det_score=None)],
    [without_face("no_face")],
    [without_face("error", "the file is empty (0 bytes)")],
    [face("clip.mp4", frame=3, time_s=0.12, track=2)],
]


def write(path: Path, answers: list[list[Prediction]], *, smooth: bool = False) -> Path:
    with open_table(path, LABELS, smooth=smooth) as table:
        for answer in answers:
            table.write(answer)
    return path


def read_json(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_columns_in_their_order() -> None:
    assert columns(LABELS) == COLUMNS
    assert tuple(row_of(face(), LABELS)) == COLUMNS
    assert tuple(row_of(without_face("no_face"), LABELS)) == COLUMNS


def test_row_of_a_face() -> None:
    assert list(row_of(face(), LABELS).values()) == [
        *("a.jpg", 0, None, 0, None, "ok", 1.5, 2.0, 30.25, 40.0, 0.9, "happiness", 0.7),
        *(0.2, 0.7, 0.1, "tiny", 1, None),
    ]


def test_row_without_a_face_has_empty_fields() -> None:
    row = row_of(without_face("error", "reason"), LABELS)
    filled = {name: value for name, value in row.items() if value is not None}
    assert filled == {
        **{"source": "b.jpg", "frame": 0, "status": "error", "model": "tiny", "schema": 1},
        "error": "reason",
    }


def test_covered_parts_are_the_last_column(tmp_path: Path) -> None:
    """Lists in JSON Lines, their JSON text elsewhere; empty where no face is, or nothing tells."""
    answers = [
        [replace(face(), covered=("eyes", "mouth")), replace(face(), covered=()), face()],
        [without_face("no_face")],
    ]
    options = {"smooth": True, "landmarks": True, "covered": True}
    assert columns(LABELS, **options)[-2:] == ("landmarks", "covered")
    expected = [["eyes", "mouth"], [], None, None]
    texts = ['["eyes", "mouth"]', "[]", None, None]
    for ending, shown in ((".jsonl", expected), (".csv", texts), (".parquet", texts)):
        path = tmp_path / f"rows{ending}"
        if ending == ".parquet":
            parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
        with open_table(path, LABELS, **options) as table:
            for answer in answers:
                table.write(answer, [None] * len(answer))
        if ending == ".parquet":
            rows = parquet.read_table(path).to_pylist()
        else:
            rows = read_json(path) if ending == ".jsonl" else read_csv(path)
        empty = "" if ending == ".csv" else None
        assert [row["covered"] for row in rows] == [empty if one is None else one for one in shown]
        assert tuple(rows[0]) == columns(LABELS, **options)


def test_a_terminal_says_what_is_covered() -> None:
    stream = io.StringIO()
    table = TextTable(stream, covered=True)
    table.write([replace(face(), covered=("mouth",)), replace(face(), covered=())])
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("  mouth covered?") and "covered" not in lines[2]


def test_formats_hold_the_same(tmp_path: Path) -> None:
    expected = [row_of(prediction, LABELS) for answer in ROWS for prediction in answer]
    assert read_json(write(tmp_path / "rows.jsonl", ROWS)) == expected
    as_text = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in expected
    ]
    assert read_csv(write(tmp_path / "rows.csv", ROWS)) == as_text
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
    table = parquet.read_table(write(tmp_path / "rows.parquet", ROWS))
    assert table.to_pylist() == expected
    assert tuple(table.column_names) == COLUMNS


@pytest.mark.parametrize("ending", FORMATS)
def test_no_rows(tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="needs fervor[parquet]")
    path = write(tmp_path / f"rows{ending}", [])
    if ending == ".csv":
        assert path.read_text(encoding="utf-8") == ",".join(COLUMNS) + "\n"
    assert path.exists()


def test_parquet_comes_in_groups_and_stays_partial_on_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
    monkeypatch.setattr("fervor.outputs.tables.ROW_GROUP", 2)
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), open_table(path, LABELS) as table:
        for answer in ROWS:
            table.write(answer)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"earlier"
    file = parquet.ParquetFile(tmp_path / "rows.parquet.partial")
    assert file.metadata.num_rows == 5
    assert file.num_row_groups == 3
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["rows.parquet", "rows.parquet.partial"]
    write(path, ROWS)
    assert parquet.read_metadata(path).num_rows == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "rows.json", "rows.csv.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.jsonl, \.csv, \.parquet"):
        open_table(tmp_path / name, LABELS)
    assert not list(tmp_path.iterdir())


def test_ending_in_capitals(tmp_path: Path) -> None:
    assert len(read_csv(write(tmp_path / "ROWS.CSV", ROWS))) == 5


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_folder_in_the_file_s_place_is_said_before_the_work(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / f"rows{ending}"
    folder.mkdir()
    with pytest.raises(UsageError, match=rf"rows\{ending} is a folder: expected a file's name"):
        check_output(folder)


def test_rows_stay_where_the_file_cannot_take_its_name(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
    path = tmp_path / "rows.parquet"
    with pytest.raises(OSError), open_table(path, LABELS) as table:
        table.write(ROWS[0])
        path.mkdir()
    assert parquet.read_metadata(tmp_path / "rows.parquet.partial").num_rows == 2


def test_missing_folder_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; create it first"):
        check_output(tmp_path / "nowhere" / "rows.csv")


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"fervor\[parquet\]"):
        check_output(tmp_path / "rows.parquet")


KILLED = """
import os, sys
from pathlib import Path
from fervor.outputs.tables import open_table
from tests.outputs.test_tables import LABELS, ROWS
table = open_table(Path(sys.argv[1]), LABELS)
for answer in ROWS[:2]:
    table.write(answer)
os._exit(9)
"""


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_killed_run_leaves_every_row(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    repository = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", KILLED, path], cwd=repository, check=False)
    assert process.returncode == 9
    assert not path.exists()
    partial = tmp_path / f"rows{ending}.partial"
    rows = read_json(partial) if ending == ".jsonl" else read_csv(partial)
    assert [row["status"] for row in rows] == ["ok", "ok", "no_face"]


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("=cmd|' /C calc'!A0.jpg", "./=cmd|' /C calc'!A0.jpg"),
        ("+1.png", "./+1.png"),
        ("-a.jpg", "./-a.jpg"),
        ("@SUM(A1).jpg", "./@SUM(A1).jpg"),
        ("\tx.jpg", r"\x09x.jpg"),
        ("a,b\n=c.jpg", r"a,b\x0a=c.jpg"),
        ("\x1b[2J.jpg", r"\x1b[2J.jpg"),
        ('a"b.jpg', 'a"b.jpg'),
        ("größe 表情.jpg", "größe 表情.jpg"),
        ("a\u2028b\x85c.jpg", r"a\u2028b\x85c.jpg"),
        ("bad\udcff.jpg", "bad\\udcff.jpg"),
    ],
)
def test_names_start_no_formula_in_csv(tmp_path: Path, source: str, written: str) -> None:
    (row,) = read_csv(write(tmp_path / "rows.csv", [[face(source)]]))
    assert row["source"] == written
    (row,) = read_json(write(tmp_path / "rows.jsonl", [[face(source)]]))
    assert row["source"] == source.replace("\udcff", "\\udcff")


def test_other_texts_start_no_formula(tmp_path: Path) -> None:
    (row,) = read_csv(write(tmp_path / "rows.csv", [[face(model="=1+1", label="@a")]]))
    assert (row["model"], row["label"]) == ("'=1+1", "'@a")


@given(source=st.text(st.characters(codec=None), min_size=1), error=st.text() | st.none())
def test_any_text_comes_back_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, source: str, error: str | None
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [[face(source, error=error)], [face("next.jpg")]]
    first, second = read_json(write(folder / "rows.jsonl", rows))
    assert first == row_of(rows[0][0], LABELS)
    assert second["source"] == "next.jpg"
    first, second = read_csv(write(folder / "rows.csv", rows))
    expected = row_of(rows[0][0], LABELS)["source"]
    assert original(first["source"]).removeprefix("./") == expected.removeprefix("./")
    assert second["source"] == "next.jpg"


def test_text_table() -> None:
    stream = io.StringIO()
    with TextTable(stream, ["a.jpg", "clip.mp4"]) as table:
        for answer in ROWS:
            table.write(answer)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "source    face  expression   prob  next                 x      y  width height",
        "a.jpg        0  happiness   0.700  neutral 0.200        2      2     30     40",
        "a.jpg        1  happiness   0.700  neutral 0.200        5      6      7      8",
        "b.jpg        -  no face",
        "b.jpg        -  error: the file is empty (0 bytes)",
        "clip.mp4     0  happiness   0.700  neutral 0.200        2      2     30     40",
    ]


def test_text_table_of_long_labels() -> None:
    labels = ("a face with raised brows", "a face with a wrinkled nose")
    stream = io.StringIO()
    table = TextTable(stream, ["a.jpg"], labels)
    for label, other in (labels, labels[::-1]):
        table.write([face("a.jpg", label=label, probabilities={label: 0.7, other: 0.3})])
    title, *rows = stream.getvalue().splitlines()
    assert {row.index("0.700") + 5 for row in rows} == {title.index("prob") + 4}
    assert {row.index(other) for row, other in zip(rows, labels[::-1], strict=True)} == {
        title.index("next")
    }
    assert {len(row) for row in rows} == {len(title)}


def test_text_table_commands_no_terminal() -> None:
    stream = io.StringIO()
    TextTable(stream).write([face("\x1b[31m\nred\udcff.jpg")])
    assert "\\x1b[31m\\nred\\udcff.jpg" in stream.getvalue()
    assert stream.getvalue().count("\n") == 2


SMOOTH = tuple(f"smooth_{label}" for label in LABELS)


def moving(count: int) -> list[list[Prediction]]:
    """A video: two faces, none, and one, in turn."""
    answers = []
    for number in range(count):
        fraction = 0.9 if number % 2 else 0.2
        probabilities = dict(zip(LABELS, (fraction, 0.9 - fraction, 0.1), strict=True))
        values = {"frame": number, "time_s": number / 25, "probabilities": probabilities}
        if number % 3 == 1:
            none = without_face("no_face", source="clip.mp4")
            answers.append([replace(none, frame=number, time_s=number / 25)])
            continue
        tracks = range(2 - number % 3 // 2)
        answers.append([face("clip.mp4", face=k, track=k, **values) for k in tracks])
    return answers


@pytest.mark.parametrize("ending", FORMATS)
def test_smoothed_columns_come_last_and_the_raw_ones_stay(tmp_path: Path, ending: str) -> None:
    assert columns(LABELS, smooth=True) == (*COLUMNS, *SMOOTH)
    answers = moving(12)
    path = write(tmp_path / f"rows{ending}", answers, smooth=True)
    if ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs fervor[parquet]")
        found = parquet.read_table(path).to_pylist()
    else:
        found = read_json(path) if ending == ".jsonl" else read_csv(path)
    smoother = Smoother()
    expected = [row for answer in answers for row in zip(answer, smoother(answer), strict=True)]
    assert len(found) == len(expected)
    for row, (prediction, smooth) in zip(found, expected, strict=True):
        assert tuple(row) == (*COLUMNS, *SMOOTH)
        for label in LABELS:
            raw, low = row[f"p_{label}"], row[f"smooth_{label}"]
            if prediction.status == "ok":
                assert float(raw) == prediction.probabilities[label]
                assert float(low) == pytest.approx(smooth[label], abs=1e-12)
            else:
                assert raw in (None, "")
                assert low in (None, "")


def test_rows_of_whatever_a_predictor_gives() -> None:
    expected = [row_of(prediction, LABELS) for answer in ROWS for prediction in answer]
    assert to_rows(ROWS) == expected
    assert to_rows(iter(ROWS)) == expected
    assert to_rows(ROWS[0]) == expected[:2]
    assert to_rows(ROWS[0][0]) == expected[:1]
    assert to_rows([]) == []


def test_rows_become_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas of the [dev] extra")
    table = pandas.DataFrame(to_rows(ROWS))
    assert tuple(table.columns) == COLUMNS
    assert table["status"].tolist() == ["ok", "ok", "no_face", "error", "ok"]
    means = table.groupby("label")["p_happiness"].mean().to_dict()
    assert means == pytest.approx({"happiness": 0.7})


@pytest.mark.parametrize("count", [3, 300])
@pytest.mark.parametrize("ending", FORMATS)
def test_pandas_and_polars_read_it(tmp_path: Path, ending: str, count: int) -> None:
    """As they come, also where the first hundreds of rows leave a column empty."""
    pandas = pytest.importorskip("pandas", reason="needs pandas of the [dev] extra")
    polars = pytest.importorskip("polars", reason="needs polars of the [dev] extra")
    pytest.importorskip("pyarrow", reason="needs fervor[parquet]")
    pictures = [[without_face("no_face")]] * count
    answers = [*pictures, *moving(9), [without_face("error", 'late, "quoted"\nreason')]]
    path = write(tmp_path / f"rows{ending}", answers)
    expected = [row_of(prediction, LABELS) for answer in answers for prediction in answer]
    if ending == ".csv":
        tables = pandas.read_csv(path), polars.read_csv(path, infer_schema_length=None)
    elif ending == ".jsonl":
        tables = (
            pandas.read_json(path, lines=True),
            polars.read_ndjson(path, infer_schema_length=None),
        )
    else:
        tables = pandas.read_parquet(path), polars.read_parquet(path)
    for table in tables:
        assert tuple(table.columns) == COLUMNS
        assert len(table) == len(expected)
        assert list(table["status"]) == [row["status"] for row in expected]
        reason = list(table["error"])[-1]
        assert (original(reason) if ending == ".csv" else reason) == expected[-1]["error"]
        if ending == ".parquet" and table is tables[0]:
            assert [str(table[name].dtype) for name in WHOLE_NUMBERS] == ["Int64"] * 4
        for name in ("time_s", "track", "p_anger"):
            filled = [value for value in list(table[name]) if not pandas.isna(value)]
            assert filled == [row[name] for row in expected if row[name] is not None]


def test_text_table_of_a_video_shows_times_and_tracks() -> None:
    stream = io.StringIO()
    with TextTable(stream, ["clip.mp4"], timed=True) as table:
        for answer in [*moving(3)[:2], [face("a.png")]]:
            table.write(answer)
    same = "happiness   0.700  neutral 0.200        2      2     30     40"
    assert stream.getvalue().splitlines() == [
        "source      time  track  face  expression   prob  next                 x      y  "
        "width height",
        f"clip.mp4   0.000      0     0  {same}",
        f"clip.mp4   0.000      1     1  {same}",
        "clip.mp4   0.040            -  no face",
        f"a.png                       0  {same}",
    ]
