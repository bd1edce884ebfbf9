"""A user's own images, listed in a CSV file: data set `csv`.

Columns: path (relative to the table), and either label or one column of votes per expression;
optionally split (train, valid, test) and group (a subject or recording that no split tears apart).
Names of expressions are mapped by the synonyms of labels.py, never by their position. Beside a
label any other column is an attribute of the images; beside votes it is refused, because it might
be a misspelt expression.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fervor.data.datasets.files import files, rows
from fervor.data.datasets.folder import SPLIT_NAMES
from fervor.data.datasets.samples import Sample
from fervor.data.datasets.unofficial import ADVICE, is_number
from fervor.errors import DataError, counted
from fervor.labels import EXPRESSIONS, canonical, ordered


PROTOCOLS = ("table",)

TERMS = "the user's own pictures, under the user's terms"

TREE = """\
one .csv file (of several, --data.annotations names one) with the header
  path,label               or path and one column of votes per expression
  and, where wanted,       split (train, valid, test), group (a subject),
                           beside a label attributes of any name (for --slices)"""

OWN = ("path", "label", "split", "group")


def labels(protocol: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """The classes that occur, or have a column of votes, in the project's order."""
    return ordered([name for sample in samples for name in (sample.label, *sample.votes)])


def read(root: Path, split: str, *, protocol: str, annotations: str) -> list[Sample]:
    """The samples of one split, in the table's order; see `fervor.data.datasets.load`."""
    path = _table(root, annotations)
    samples, seen = [], set()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        image = os.path.normpath(path.parent / row["path"])
        if image in seen:
            raise DataError(f"{where} names {row['path']} for the second time")
        seen.add(image)
        part = row.get("split", "train").strip().lower()
        if part not in SPLIT_NAMES:
            raise DataError(f"{where} has split {part!r}: expected train, valid or test")
        label, votes = _label(row, where)
        if SPLIT_NAMES[part] == split:
            _check_file(image, where)
            group = row.get("group", "").strip()
            samples.append(Sample(image, label, votes, group=group, attributes=_extra(row)))
    if not seen:
        raise DataError(f"{path} lists no pictures")
    return samples


def expected(root: Path, split: str, *, protocol: str, annotations: str) -> None:
    """Nobody's images but the user's: nothing to compare with."""
    return None


def _table(root: Path, annotations: str) -> Path:
    if annotations:
        return root / annotations
    tables = [name for name in files(root) if name.lower().endswith(".csv")]
    if len(tables) != 1:
        listing = (
            f"{len(tables)} .csv files ({', '.join(tables[:5])})" if tables else "no .csv file"
        )
        raise DataError(f"{root} holds {listing}: name the table with --data.annotations")
    return root / tables[0]


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The table's rows by column: path, label, split, group, or an expression's name."""
    columns: list[str] = []
    for number, cells in rows(path):
        if not columns:
            columns = _columns(cells, path)
        elif len(cells) != len(columns):
            raise DataError(
                f"{path}:{number} has {counted(len(cells), 'column')}, expected {len(columns)}"
            )
        else:
            yield number, dict(zip(columns, cells, strict=True))


def _columns(header: Sequence[str], path: Path) -> list[str]:
    names = [name.strip().lower() for name in header]
    if "label" in names:
        columns = [name if name in OWN else _attribute(name) for name in names]
    else:
        columns = [name if name in OWN else _expression(name, path) for name in names]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{path} has two columns for {twice}: leave one out")
    votes = [name for name in columns if name in EXPRESSIONS]
    if "path" not in columns or ("label" in columns) == bool(votes):
        raise DataError(
            f"{path} has the columns {', '.join(names)}: expected path, and either label or one "
            "column of votes per expression"
        )
    return columns


def _attribute(name: str) -> str:
    """An expression's name beside a label is one too many; anything else is an attribute."""
    try:
        return canonical(name)
    except DataError:
        return name


def _extra(row: Mapping[str, str]) -> dict[str, str]:
    return {
        name: cell.strip()
        for name, cell in row.items()
        if name not in OWN and name not in EXPRESSIONS
    }


def _expression(name: str, path: Path) -> str:
    try:
        return canonical(name)
    except DataError:
        raise DataError(
            f"{path} has a column {name!r}: expected {', '.join(OWN)} or an expression "
            f"({', '.join(EXPRESSIONS)})"
        ) from None


def _label(row: Mapping[str, str], where: str) -> tuple[str, dict[str, float]]:
    """A row's expression and votes; of equally many votes the first in the project's order wins."""
    if "label" in row:
        if is_number(row["label"]):
            raise DataError(
                f"{where} has the number {row['label'].strip()} as its label: expected a word; "
                "nothing says in which order the table counts, third-party copies mostly take the "
                f"alphabetical one; {ADVICE}"
            )
        try:
            return canonical(row["label"]), {}
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    cells = {name: row[name] for name in EXPRESSIONS if name in row}
    try:
        votes = {name: float(cell or 0) for name, cell in cells.items()}
    except ValueError:
        raise DataError(f"{where} has votes {list(cells.values())}, expected numbers") from None
    are_counts = all(count >= 0 for count in votes.values())
    if not are_counts or not 0 < sum(votes.values()) < float("inf"):
        raise DataError(
            f"{where} has votes {list(cells.values())}, out of range: expected none below 0, and "
            "one above"
        )
    return max(votes, key=lambda name: votes[name]), votes


def _check_file(image: str, where: str) -> None:
    try:
        os.stat(image)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{where}: {image} is a symbolic link to itself") from None
        raise DataError(f"{where}: {image} is missing or cannot be read") from None
    except ValueError:  # a zero byte, which no name may hold
        raise DataError(f"{where}: {image!r} is no name of a file") from None
    if not os.path.isfile(image):
        raise DataError(f"{where}: {image} is no file")
