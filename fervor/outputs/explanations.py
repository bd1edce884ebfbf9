"""The work of `fervor explain`: every face of the inputs drawn, and its row, in a folder."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fervor.errors import ModelError, UsageError
from fervor.inference.attribution import Explanation, Heat
from fervor.inference.prediction import Prediction, failed, row_of, without_face
from fervor.inference.predictor import Predictor
from fervor.io import sources as media
from fervor.io.atomic import RowFile, beside, check_inputs_stay, lock_folder, write_image
from fervor.io.csv_cells import encodable
from fervor.io.progress import progress
from fervor.outputs.annotator import output_names
from fervor.outputs.explanation_figure import drawn
from fervor.outputs.tables import TextTable


__all__ = ["FIELDS", "ROWS", "run"]

_DRAWING = re.compile(r"-face\d+\.png$")

ROWS = "explanations.jsonl"
FIELDS = ("heat", "heat_by", "cues_for", "cues_against", "square", "covered", "drawing")
"""What a row holds behind those of `fervor predict`; `drawing` is the picture's name."""


def run(
    predictor: Predictor,
    inputs: Sequence[str],
    folder: Path,
    *,
    top: int,
    heat: Heat = "occlusion",
) -> Counter[str]:
    """Number of rows by status; NAME-faceN.png for each face, and all rows in explanations.jsonl.

    Raises:
        ModelError: the model cannot be explained.
        UsageError: a video, or an output that is a file.
    """
    if top < 1:
        raise UsageError(f"top={top}: expected 1 or more")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output {folder} is a file: expected a folder")
    predictor.check_explainable()
    skipped: Counter[str] = Counter()
    sources = pictures(inputs, skipped)
    names = output_names(sources, several=True)
    written = _earlier_files(folder, names.values())
    check_inputs_stay(f"output {folder}", written, sources, kind="folder")
    counts: Counter[str] = Counter()
    with (
        TextTable(sys.stdout, sources, predictor.labels) as table,
        progress(len(sources)) as bar,
        lock_folder(folder),
        _rows_in(folder) as rows,
        closing(media.read(sources)) as frames,
    ):
        for frame in frames:
            explained, nothing = [], without_face(frame, predictor.name)
            try:
                explained = [] if frame.image is None else predictor.explain(frame, heat=heat)
            except ModelError as error:
                nothing = failed(frame, predictor.name, str(error))
            answers = [one.prediction for one in explained] or [nothing]
            if not explained:
                _write(rows, answers[0], predictor.labels, dict.fromkeys(FIELDS))
            for one in explained:
                name = Path(names[frame.source])
                name = name.with_name(f"{name.stem}-face{one.prediction.face}.png")
                _draw(folder / name, frame, one, top)
                more = one.row() | {"drawing": encodable(name.as_posix())}
                _write(rows, one.prediction, predictor.labels, more)
            table.write(answers)
            counts.update(answer.status for answer in answers)
            bar.update()
    if skipped:
        print(media.skipped_files(skipped), file=sys.stderr)
    return counts


def _earlier_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Files of the folder whose names are those of rows, or of drawings of any face of `names`."""
    stems = {str(folder / Path(name).with_suffix("")) for name in names}
    drawings = [
        path
        for place in {Path(stem).parent for stem in stems}
        for path in place.glob("*.png")
        if _DRAWING.sub("", str(path)) in stems
    ]
    return [folder / ROWS, beside(folder / ROWS, after=".partial"), *drawings]


def pictures(inputs: Sequence[str], skipped: Counter[str]) -> list[str]:
    """The pictures that the inputs stand for; `skipped` counts a folder's other files by endings.

    Raises:
        UsageError: a video or a webcam is named, or a folder holds nothing else.
    """
    sources = media.find(inputs, skipped=skipped)
    moving = {source for source in sources if media.is_moving(source)}
    named = [source for source in inputs if source in moving]
    kept = [source for source in sources if source not in moving]
    if named or not kept:
        raise UsageError(
            f"{(named or sources)[0]} is a video or animated: expected still pictures to explain"
        )
    skipped.update(os.path.splitext(source)[1].lower() for source in moving)
    return kept


def _draw(path: Path, frame: media.Frame, explanation: Explanation, top: int) -> None:
    assert frame.image is not None, "a face was found in a picture"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, drawn(frame.image, explanation, top=top), "PNG")


@contextmanager
def _rows_in(folder: Path) -> Iterator[RowFile]:
    rows = RowFile(folder / ROWS)
    try:
        yield rows
    except BaseException:
        rows.finish(complete=False)
        raise
    rows.finish()


def _write(
    file: RowFile, prediction: Prediction, labels: Iterable[str], more: dict[str, Any]
) -> None:
    row = row_of(prediction, tuple(labels)) | more
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
