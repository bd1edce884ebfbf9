"""Predictions -> rows: JSON Lines, CSV and Parquet of one schema, and a table for a terminal.

JSON Lines and CSV hold every finished row at any moment; Parquet appears when it is complete.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from fervor.errors import UsageError
from fervor.faces.types import Points
from fervor.inference.prediction import WHOLE_NUMBERS, Prediction, cover_note, row_of
from fervor.inference.smoothing import Smoother
from fervor.io.atomic import RowFile, beside, lock_file
from fervor.io.csv_cells import harmless


__all__ = [
    "FORMATS",
    "TextTable",
    "Writer",
    "check_output",
    "columns",
    "open_table",
    "partial_of",
    "visible",
]

WIDEST = 60
"""Signs of a column for a reader; what is longer moves its own row."""
ROW_GROUP = 10_000
"""Rows of a Parquet row group: what is held in memory."""

BEFORE = (
    *("source", "frame", "time_s", "face", "track", "status", "x", "y", "width", "height"),
    *("det_score", "label", "prob"),
)
AFTER = ("model", "schema", "error")
TEXTS = ("source", "status", "label", "model", "error", "landmarks", "covered")

LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""What some readers take for the end of a line, as JSON escapes."""


def columns(
    labels: Sequence[str], *, smooth: bool = False, landmarks: bool = False, covered: bool = False
) -> tuple[str, ...]:
    """The names of the columns in their order, for a model's ordered labels."""
    smoothed = (f"smooth_{label}" for label in labels if smooth)
    asked = {"landmarks": landmarks, "covered": covered}
    optional = (*smoothed, *(name for name in asked if asked[name]))
    return (*BEFORE, *(f"p_{label}" for label in labels), *AFTER, *optional)


class Writer(Protocol):
    """A file of rows; leaving the `with` block finishes it.

    An exception leaves the earlier file as it was, and the rows so far in `partial_of` the file.
    """

    def write(
        self, predictions: Sequence[Prediction], points: Sequence[Points | None] = ()
    ) -> None:
        """Add the rows of one frame; `points` are those of each prediction, where asked for."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Rows:
    """Predictions -> rows of a model's columns, with the optional ones where asked for."""

    def __init__(self, labels: Sequence[str], smooth: bool, landmarks: bool, covered: bool) -> None:
        self.columns = columns(labels, smooth=smooth, landmarks=landmarks, covered=covered)
        self._labels, self._landmarks, self._covered = labels, landmarks, covered
        self._smoother = Smoother() if smooth else None

    def __call__(
        self, predictions: Sequence[Prediction], points: Sequence[Points | None] = ()
    ) -> list[dict[str, Any]]:
        smoothed: Sequence[dict[str, float] | None] = [None] * len(predictions)
        if self._smoother is not None:
            smoothed = self._smoother(predictions)
        rows = [
            row_of(prediction, self._labels, smooth, covered=self._covered)
            for prediction, smooth in zip(predictions, smoothed, strict=True)
        ]
        if self._landmarks:
            for row, places in zip(rows, points, strict=True):
                row["landmarks"] = places
        return [{name: row[name] for name in self.columns} for row in rows]


class _Lines:
    """Rows as lines of text; those of one frame reach the file together, at once."""

    def __init__(self, path: Path, rows: _Rows) -> None:
        self._rows = rows
        self._file = RowFile(path)

    def write(
        self, predictions: Sequence[Prediction], points: Sequence[Points | None] = ()
    ) -> None:
        self._file.write("".join(self._line(row) for row in self._rows(predictions, points)))

    def _line(self, row: dict[str, Any]) -> str:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.finish(complete=kind is None)


class JsonLines(_Lines):
    """One JSON object a line; empty fields are null."""

    def _line(self, row: dict[str, Any]) -> str:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        return text.translate(LINE_ENDS) + "\n"


class Csv(_Lines):
    """Comma separated, with a header; empty fields are empty, and texts are harmless cells."""

    def __init__(self, path: Path, rows: _Rows) -> None:
        super().__init__(path, rows)
        self._file.write(_csv_line(rows.columns), heading=True)

    def _line(self, row: dict[str, Any]) -> str:
        cells = (
            harmless(value, path=name == "source") if isinstance(value, str) else value
            for name, value in _flat_row(row).items()
        )
        return _csv_line([*cells])


def _flat_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for formats without lists: these as JSON text."""
    return {
        name: json.dumps(value) if isinstance(value, tuple | list) else value
        for name, value in row.items()
    }


def _csv_line(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    # Fields are quoted for what ends a line, so both signs; the line itself ends as on Unix.
    csv.writer(buffer, lineterminator="\r\n").writerow(values)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


class Parquet:
    """Row groups in a file beside the asked one, renamed when it is finished."""

    def __init__(self, path: Path, rows: _Rows) -> None:
        import pyarrow
        from pyarrow import parquet

        self._rows = rows
        self._path = Path(os.path.realpath(path))
        self._partial = partial_of(path)
        self._arrow = pyarrow
        fields = [(name, _arrow_type(pyarrow, name)) for name in rows.columns]
        self._schema = pyarrow.schema(fields, metadata={"pandas": _for_pandas(rows.columns)})
        self._group: list[dict[str, Any]] = []
        self._count = 0
        with ExitStack() as stack:
            stack.enter_context(lock_file(self._path))
            try:
                self._writer = parquet.ParquetWriter(self._partial, self._schema)
            except OSError:
                self._partial.unlink(missing_ok=True)
                raise
            self._lock = stack.pop_all()

    def write(
        self, predictions: Sequence[Prediction], points: Sequence[Points | None] = ()
    ) -> None:
        self._group.extend(map(_flat_row, self._rows(predictions, points)))
        if len(self._group) >= ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        rows, self._group = self._group, []
        self._count += len(rows)
        self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            kept = False
            try:
                if not isinstance(error, OSError | UsageError):  # groups of rows are missing
                    if self._group:
                        self._write_group()
                    self._writer.close()
                    kept = self._count > 0
                    if kind is None:
                        self._partial.replace(self._path)
            finally:
                with suppress(OSError):
                    self._writer.close()
                if not kept:
                    self._partial.unlink(missing_ok=True)


def _arrow_type(pyarrow: Any, name: str) -> Any:
    if name in TEXTS:
        return pyarrow.string()
    return pyarrow.int64() if name in WHOLE_NUMBERS else pyarrow.float64()


def _for_pandas(names: Sequence[str]) -> str:
    """What pandas writes itself so that whole numbers stay whole where some are missing."""
    whole = [
        {"name": name, "field_name": name, "pandas_type": "int64", "numpy_type": "Int64"}
        for name in names
        if name in WHOLE_NUMBERS
    ]
    return json.dumps({"index_columns": [], "column_indexes": [], "columns": whole})


FORMATS: dict[str, Callable[[Path, _Rows], Writer]] = {
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".parquet": Parquet,
}


def partial_of(path: Path) -> Path:
    """Where the rows of a file are until it is complete."""
    return beside(Path(os.path.realpath(path)), after=".partial")


def check_output(path: Path) -> None:
    """Say before the work starts what would stop its output.

    Raises:
        UsageError: another ending than those of FORMATS, a folder of that name, no folder to hold
            it, or pyarrow is missing.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"output {path}: expected a name that ends in {', '.join(FORMATS)}")
    if path.is_dir():
        raise UsageError(f"output {path} is a folder: expected a file's name")
    if not path.parent.is_dir():
        raise UsageError(f"output {path}: the folder {path.parent} does not exist; create it first")
    if path.suffix.lower() == ".parquet":
        if path.exists() and not path.is_file():
            raise UsageError(f"output {path} is a pipe or device: Parquet needs a file of its own")
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"output {path}: Parquet needs pyarrow; "
                'pip install "fervor[parquet]", or name a .csv or .jsonl file'
            ) from error


def open_table(
    path: Path,
    labels: Sequence[str],
    *,
    smooth: bool = False,
    landmarks: bool = False,
    covered: bool = False,
) -> Writer:
    """A file of rows in the format that the path's ending names; an existing one is replaced.

    `smooth` adds a column smooth_<class> for each class: p_<class> smoothed over its track.
    `landmarks` adds a column of that name: the points that `write` is given; `covered` the parts
    of each face that seem covered. Both are lists in JSON Lines and JSON text elsewhere.

    Raises:
        UsageError: see `check_output`.
    """
    check_output(path)
    return FORMATS[path.suffix.lower()](path, _Rows(labels, smooth, landmarks, covered))


class TextTable:
    """Rows for a reader: the expression, the one that comes next, and where the face is.

    Columns are as wide as the longest of `sources` and of `labels` ask for, up to 60 signs.
    `covered` says at the end of a line which parts of the face seem covered.
    """

    def __init__(
        self,
        stream: TextIO,
        sources: Sequence[str] = (),
        labels: Sequence[str] = (),
        *,
        timed: bool = False,
        covered: bool = False,
    ) -> None:
        self._width, self._label = (
            min(max(len(visible(text)) for text in (title, *texts)), WIDEST)
            for title, texts in (("source", sources), ("expression", labels))
        )
        self._stream, self._timed, self._covered = stream, timed, covered
        self._stream.write(
            f"{'source':{self._width}}{'    time  track' if timed else ''}"
            f"  face  {'expression':{self._label}}   prob  {'next':{self._label + 11}}"
            "x      y  width height\n"
        )

    def write(
        self, predictions: Sequence[Prediction], points: Sequence[Points | None] = ()
    ) -> None:
        """Add the rows of one frame; points have no place in it."""
        for prediction in predictions:
            source = f"{visible(prediction.source):{self._width}}"
            if self._timed:
                time = "" if prediction.time_s is None else f"{prediction.time_s:.3f}"
                track = "" if prediction.track is None else prediction.track
                source += f"{time:>8}{track:>7}"
            doubt = f"  {cover_note(prediction.covered or ())}" if self._covered else ""
            answer = _answer(prediction, self._label)
            self._stream.write(f"{source}  {answer}{doubt}".rstrip() + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()


def _answer(prediction: Prediction, column: int) -> str:
    """Face, label, its probability, the next one, and the box; `column` is the labels' width."""
    if prediction.box is None or prediction.prob is None:
        reason = f": {visible(prediction.error)}" if prediction.error else ""
        return f"   -  {prediction.status.replace('_', ' ')}{reason}"
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    following = f"{ranked[1][0]} {ranked[1][1]:.3f}" if len(ranked) > 1 else ""
    x, y, width, height = (round(value) for value in prediction.box)
    return (
        f"{prediction.face:4}  {prediction.label:{column}}  {prediction.prob:.3f}  "
        f"{following:{column + 6}}"
        f"{x:6} {y:6} {width:6} {height:6}"
    )


def visible(text: str) -> str:
    """Control characters, which could command a terminal, as escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )
