"""What every data set gives: samples; and how their numbers are compared with the official ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fervor.errors import DataError, InputError
from fervor.io.image_header import read_header


Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One annotated image.

    Attributes:
        path: the image's file; empty where `pixels` holds it.
        label: the expression's name; its index is nobody's business outside a model.
        votes: raters' votes by expression, after the protocol's rule; empty where there are none.
        pixels: the image itself, grey, row by row, for sets that keep pixels in a table.
        side: width and height of `pixels`.
        box: x, y, width, height of the face in the file's pixels; None where the image is one.
        group: what must not be torn apart by a split (a subject, a recording); empty for none.
        photograph: the file that `box` is in, also of an aligned crop; empty for none. Faces of one
            photograph stay on one side of a held-out part.
        attributes: what else is known of the image (gender, age), for accuracy by group alone.
    """

    path: str
    label: str
    votes: dict[str, float] = field(default_factory=dict)
    pixels: bytes = field(default=b"", repr=False)
    side: int = 0
    box: Box | None = None
    group: str = ""
    photograph: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """Images that a split holds officially, by expression.

    Attributes:
        counts: in the order in which the data set numbers its expressions.
        slack: share by which each count may differ; 0 where the official files were counted.
        source: the label file that was counted, where there are several.
    """

    counts: dict[str, int]
    slack: float = 0.0
    source: str = ""

    def agrees(self, name: str, count: int) -> bool:
        """Whether that many images of an expression are what is expected."""
        official = self.counts.get(name, 0)
        return abs(count - official) <= self.slack * official


def check_side(samples: Sequence[Sample], least: int, *, where: str, copies: str) -> None:
    """Look at the size of a split's first image: it belongs to an official layout, too.

    Raises:
        DataError: its shorter side has fewer than `least` pixels, as that of `copies` has.
    """
    if not samples:
        return
    try:
        with open(samples[0].path, "rb") as file:
            header = read_header(file)
    except (OSError, InputError):
        header = None
    if header is None:
        return  # what cannot be read is told when all are read
    size = header.width, header.height
    if min(size) < least:
        raise DataError(
            f"{where}: {samples[0].path} has {size[0]} x {size[1]} pixels, expected a side of "
            f"{least} or more; {copies} are no official release: use that"
        )


def check_counts(samples: Iterable[Sample], official: Expected, *, where: str, what: str) -> None:
    """Compare the classes' sizes with the official ones.

    Raises:
        DataError: they differ; where they are the official ones under other names, the labels are
            numbered in another order, and the message says so.
    """
    counts = Counter(sample.label for sample in samples)
    expected = official.counts
    names = dict.fromkeys([*expected, *counts])
    different = [name for name in names if not official.agrees(name, counts[name])]
    if not different:
        return
    meant = dict(
        zip(
            sorted(different, key=lambda name: counts[name]),
            sorted(different, key=lambda name: expected.get(name, 0)),
            strict=True,
        )
    )
    if all(official.agrees(meant[name], counts[name]) for name in different):
        order = [meant.get(name, name) for name in expected]
        kind = "alphabetically" if order == sorted(order) else "in another order"
        swaps = ", ".join(f"{name} has that of {meant[name]}" for name in different)
        raise DataError(
            f"{where} numbers its labels {kind}: of its {what}, {swaps} in number; third-party "
            "copies do so; use the official release"
        )
    first = different[0]
    source = f" ({official.source})" if official.source else ""
    raise DataError(
        f"{where} gives {counts.total():,} {what}{source}, expected "
        f"{sum(expected.values()):,}: it holds {counts[first]:,} of {first}, not "
        f"{expected.get(first, 0):,}; the labels or the tree differ from the official release"
    )
