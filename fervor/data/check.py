"""Compare a data set's folder with its official tree, counts and images: `fervor data check`.

A difference is a problem, and the command ends with 1. Identical images are a warning: official
releases hold some.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fervor.data import datasets
from fervor.data.datasets import SPLITS, Expected, Sample
from fervor.data.datasets.files import shown
from fervor.data.duplicates import Fingerprint, fingerprints
from fervor.errors import DataError, counted
from fervor.io.progress import progress


LISTED = 5
"""Entries of a kind that are listed; the others are counted."""

DEPTH = 4
BREADTH = 3
"""Levels of folders that the found tree shows, and folders of one."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        problems: what differs, one line each; the first names the first offending path.
        lines: the whole report as text.
    """

    problems: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One split as it was read; `official` is None where a data set has no official counts."""

    name: str
    samples: Sequence[Sample]
    official: Expected | None


def check(
    name: str, root: str, *, protocol: str = "", annotations: str = "", quick: bool = False
) -> Report:
    """Read a data set whole and report on it.

    Args:
        name: the data set.
        root: its folder.
        protocol: the rule that turns annotations into labels; empty for the default.
        annotations: label source or images where there are several.
        quick: read the images' headers alone and compare files instead of pixels.

    Raises:
        UsageError: no such data set or protocol.
        DataError: no such folder.
    """
    rule = datasets.protocol_of(name, protocol)
    if not root or not Path(root).is_dir():
        raise DataError(f"no folder {root!r} for data set {name}: expected the root of its tree")
    splits, problems = _read(name, Path(root), rule, annotations)
    samples = [sample for split in splits for sample in split.samples]
    prints = _watched(fingerprints(samples, quick=quick), len(samples))
    unreadable = [
        f"{shown(sample.path)}: {print_.error}"
        for sample, print_ in zip(samples, prints, strict=True)
        if print_.error
    ]
    if unreadable:
        problems.append(
            f"{counted(len(unreadable), 'picture')} cannot be read; the first: {unreadable[0]}"
        )
    title = f"{name}, protocol {rule}, {shown(root)}"
    sections = {
        "expected tree": datasets.dataset(name).TREE.splitlines(),
        "found tree": list(_tree(Path(root))),
        "pictures": list(_table(splits)),
        "unreadable pictures": _shortened(unreadable) or ["none"],
        "identical pictures (a warning)": list(_identical(splits, prints)) or ["none"],
    }
    official = any(split.official is not None for split in splits)
    return Report(tuple(problems), tuple(_text(title, sections, problems, official)))


def _text(
    title: str, sections: Mapping[str, Sequence[str]], problems: Sequence[str], official: bool
) -> Iterator[str]:
    yield title
    for heading, body in sections.items():
        yield from ("", heading, *(f"  {line}" for line in body))
    yield ""
    yield from (f"DIFFERS: {problem}" for problem in problems)
    if not problems:
        yield "agrees with the official release" if official else "no problem found"


def _read(name: str, root: Path, rule: str, annotations: str) -> tuple[list[Split], list[str]]:
    """The splits, as far as they can be read, and what is wrong with them."""
    module = datasets.dataset(name)
    splits: list[Split] = []
    problems: dict[str, None] = {}  # a set in order: one damage often shows in every split
    for part in SPLITS:
        samples: Sequence[Sample] = ()
        official: Expected | None = None
        try:
            official = module.expected(root, part, protocol=rule, annotations=annotations)
            samples = module.read(root, part, protocol=rule, annotations=annotations)
            if official is not None:
                what = f"{part} pictures under {rule}"
                datasets.check_counts(samples, official, where=str(root), what=what)
        except DataError as error:
            problems[str(error)] = None
        splits.append(Split(part, samples, official))
    if not problems and not any(split.samples for split in splits):
        problems[f"{root} holds no pictures"] = None
    return splits, list(problems)


def _watched(count_there: Iterable[Fingerprint], count: int) -> list[Fingerprint]:
    prints = []
    with progress(count, "comparing") as bar:
        for fingerprint in count_there:
            prints.append(fingerprint)
            bar.update()
    return prints


def _table(splits: Iterable[Split]) -> Iterator[str]:
    """Found and expected images per split and class."""
    yield f"{'split':7}{'expression':12}{'found':>10}{'expected':>10}"
    for split in splits:
        counts = Counter(sample.label for sample in split.samples)
        official = None if split.official is None else split.official.counts
        names = list(dict.fromkeys([*(official or ()), *sorted(counts)]))
        if not names:
            continue
        for name in names:
            agrees = split.official is None or split.official.agrees(name, counts[name])
            count = None if official is None else official.get(name, 0)
            yield _row(split.name, name, counts[name], count, agrees)
        total = None if official is None else sum(official.values())
        yield _row(split.name, "all", counts.total(), total, True)


def _row(split: str, name: str, count_there: int, expected: int | None, agrees: bool) -> str:
    official = "" if expected is None else f"{expected:,}"
    mark = "" if agrees else "  differs"
    return f"{split:7}{name:12}{count_there:>10,}{official:>10}{mark}".rstrip()


def _identical(splits: Sequence[Split], prints: Sequence[Fingerprint]) -> Iterator[str]:
    """Images that repeat another, counted within and between splits, and an example of each."""
    places: defaultdict[bytes, list[tuple[str, Sample]]] = defaultdict(list)
    owners = [(split.name, sample) for split in splits for sample in split.samples]
    for owner, print_ in zip(owners, prints, strict=True):
        if not print_.error:
            places[print_.digest].append(owner)
    several = [group for group in places.values() if len(group) > 1]
    for kind, pairs in _pairs(several).items():
        (_, first), (_, second) = pairs[0]
        names = f"{first.path} = {second.path}" if first.path else "in the table of pixels"
        yield f"{len(pairs):,} {kind}, such as {names}"
    if conflicts := sum(len({sample.label for _, sample in group}) > 1 for group in several):
        yield f"with different labels: {conflicts:,} of {len(several):,}"


Pair = tuple[tuple[str, Sample], tuple[str, Sample]]


def _pairs(groups: Iterable[Sequence[tuple[str, Sample]]]) -> Mapping[str, list[Pair]]:
    """Each repeating image with the first that it repeats, by kind."""
    kinds: dict[str, list[Pair]] = {}
    for part in SPLITS:
        kinds[f"within {part}"] = []
        for earlier in SPLITS[: SPLITS.index(part)]:
            kinds[f"of {part} also in {earlier}"] = []
    for group in groups:
        first: dict[str, tuple[str, Sample]] = {}
        for owner in group:
            part = owner[0]
            for earlier in first:
                kind = f"within {part}" if earlier == part else f"of {part} also in {earlier}"
                kinds[kind].append((first[earlier], owner))
            first.setdefault(part, owner)
    return {kind: pairs for kind, pairs in kinds.items() if pairs}


def _tree(root: Path, depth: int = 0) -> Iterator[str]:
    """The found folders with their files by ending; links are shown, not followed."""
    try:
        with os.scandir(root) as entries:
            seen = (entry for entry in entries if not entry.name.startswith("."))
            listed = sorted(seen, key=lambda entry: entry.name)
    except OSError as error:
        yield f"{'  ' * depth}cannot be listed: {error.strerror}"
        return
    inner = [entry for entry in listed if entry.is_dir(follow_symlinks=False)]
    others = [entry for entry in listed if not entry.is_dir(follow_symlinks=False)]
    indent = "  " * depth
    for entry in inner[:BREADTH]:
        yield f"{indent}{shown(entry.name)}/"
        if depth + 1 < DEPTH:
            yield from _tree(Path(entry.path), depth + 1)
    if len(inner) > BREADTH:
        yield f"{indent}... {counted(len(inner) - BREADTH, 'more folder')}"
    endings: defaultdict[str, list[str]] = defaultdict(list)
    for entry in others:
        kind = "link" if entry.is_symlink() else Path(entry.name).suffix.lower() or "no ending"
        endings[kind].append(shown(entry.name))
    for kind, names in endings.items():
        few = ", ".join(names[:2])
        yield f"{indent}{few}" if len(names) <= 2 else f"{indent}{few} ... {len(names):,} ({kind})"


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"... {more:,} more"] if more > 0 else [])]
