"""A paper's table, row by row: what finished runs give, beside the published number.

Ours are means over seeds; a deviation is a sample deviation. Everything is read from result files;
what is missing is trained and evaluated where that is asked for.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fervor import results
from fervor.config import Data
from fervor.errors import UsageError
from fervor.published import Profile, Row, Table, data_key, table
from fervor.runs import Job, run_all


Z = 1.959963984540054
"""Deviations of a normal distribution that hold 95 %."""


@dataclass(frozen=True)
class Found:
    """What the finished runs of one row give, in percent; empty where none is finished.

    Attributes:
        accuracy: of each seed.
        mean_class_accuracy: of each seed.
        count: pictures that were tested.
    """

    accuracy: tuple[float, ...] = ()
    mean_class_accuracy: tuple[float, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Setting:
    """What a table is made for: profile, encoder, and a data set as names of runs call it."""

    profile: Profile
    encoder: str
    data: str
    seeds: int
    output: Path

    def result(self, shown: Table, row: Row, seed: int) -> Path:
        """The result file of one run of a row."""
        name = shown.run_name(row, self.profile, self.encoder, self.data)
        other = f"-{shown.test['name']}-{shown.test['protocol']}" if shown.test else ""
        return self.output / f"{name}-seed{seed}{other}-test.json"

    def found(self, shown: Table, row: Row) -> Found:
        """What the finished runs of a row give."""
        if row.quoted:
            return Found()
        paths = [self.result(shown, row, seed) for seed in range(self.seeds)]
        read = [results.read(path) for path in paths if path.is_file()]
        if not read:
            return Found()
        return Found(
            tuple(100 * result["accuracy"] for result in read),
            tuple(100 * result["mean_class_accuracy"] for result in read),
            read[0]["count"],
        )


def reproduce(
    name: str,
    data: Data,
    *,
    encoder: str = "",
    profile: Profile = "evidence",
    seeds: int = 3,
    jobs: int = 1,
    test_root: str = "",
    output: Path = Path("results"),
    runs: Path = Path("runs"),
) -> tuple[str, list[Job]]:
    """Finish a table's runs where a data set's folder is given; the table, and jobs that failed.

    Args:
        name: of the table.
        data: the data set; without its root nothing is trained.
        encoder: of the profile; empty for its first.
        profile: evidence or full.
        seeds: runs of each row, with seeds from 0 on.
        jobs: runs side by side.
        test_root: folder of the data set that the table tests on, where it is another one.
        output: folder of result files.
        runs: folder of run folders.

    Raises:
        UsageError: an unknown table or encoder, a row without a recipe, or no `test_root`.
    """
    shown = table(name)
    key = data_key(data.name, data.protocol)
    setting = Setting(profile, shown.encoder(profile, encoder), key, seeds, output)
    failed: list[Job] = []
    if data.root:
        if shown.test and not test_root:
            raise UsageError(f"{name} tests on {shown.test['name']}: give its folder, --test_root")
        failed = run_all(list(jobs_of(shown, setting, data, test_root, runs)), side_by_side=jobs)
    return markdown(shown, setting), failed


def jobs_of(
    shown: Table, setting: Setting, data: Data, test_root: str, runs: Path
) -> Iterable[Job]:
    """A job for each row and seed, all rows of a seed first."""
    rows = [row for row in shown.rows_of(setting.profile) if not row.quoted]
    test = data
    if shown.test:
        name, protocol = shown.test["name"], shown.test["protocol"]
        test = Data(name=name, protocol=protocol, root=test_root, cache=data.cache)
    for seed in range(setting.seeds):
        for row in rows:
            recipe = shown.recipe(row, setting.profile, setting.encoder, setting.data)
            named = {"name": data.name} | ({"protocol": data.protocol} if data.protocol else {})
            yield Job(
                name=recipe["name"],
                seed=seed,
                recipe={**recipe, "data": {**recipe.get("data", {}), **named}},
                data=data,
                result=setting.result(shown, row, seed),
                test=test,
                report=shown.report,
                runs=runs,
                output=setting.output,
            )


def markdown(shown: Table, setting: Setting) -> str:
    """The table as Markdown, its columns aligned."""
    context, sets = _context(shown, setting)
    rows = [
        row
        for row in shown.rows_of(setting.profile)
        if not row.quoted or _numbers(row, context, sets)
    ]
    found = {row.name: setting.found(shown, row) for row in rows}
    base = next((row for row in rows if row.name == shown.base), None)
    header = ["row", "seeds", "accuracy", "mean class accuracy"]
    header += [f"gain over {base.name}"] if base else []
    published = f"{context}: {' / '.join(sets)}"
    header += [f"published, {published}"] if sets else []
    printed = any(row.published for row in rows)
    header += ["published gain" if printed else f"published gain, {published}"] if base else []
    lines = [[*header, "difference", "verdict"]]
    for row in rows:
        ours = found[row.name]
        cells = [row.name, "quoted" if row.quoted else str(len(ours.accuracy))]
        cells += [_spread(ours.accuracy), _spread(ours.mean_class_accuracy)]
        cells += [_gain(ours, found[base.name])] if base else []
        cells += [_numbers(row, context, sets)] if sets else []
        cells += [_published_gain(row, base, context, sets)] if base else []
        number = _accuracy(row.published.get(setting.encoder, {}).get(setting.data))
        lines.append([*cells, _difference(ours, number), verdict(ours, number, row)])
    where = f"{setting.data}, {setting.encoder}, profile {setting.profile}"
    return f"{shown.paper}, {shown.title}; ours on {where}.\n\n{_aligned(lines)}"


def verdict(ours: Found, published: float | None, row: Row) -> str:
    """Whether the published number lies in our 95 % interval.

    The interval is that of the mean over seeds on test pictures that are a sample: its variance is
    the pictures', p (1 - p) / n, and the seeds', s^2 / k.
    """
    if row.quoted:
        return ""
    if not ours.accuracy:
        return "not run"
    if published is None:
        return "other data or encoder"
    mean = statistics.mean(ours.accuracy)
    variance = mean * (100 - mean) / ours.count
    if len(ours.accuracy) > 1:
        variance += statistics.variance(ours.accuracy) / len(ours.accuracy)
    if abs(mean - published) <= Z * math.sqrt(variance):
        return "within"
    return "below" if mean < published else "above"


def _context(shown: Table, setting: Setting) -> tuple[str, list[str]]:
    """The encoder and data sets of the published numbers that are shown: ours, or the first."""
    rows = shown.rows_of(setting.profile)
    if any(setting.data in row.published.get(setting.encoder, {}) for row in rows):
        return setting.encoder, [setting.data]
    for row in rows:
        for numbers in (row.published, row.gain):
            if numbers:
                encoder = next(iter(numbers))
                return encoder, list(numbers[encoder])
    return "", []


def _accuracy(number: float | list[float] | None) -> float | None:
    """Of a published entry: the accuracy, without the mean over classes."""
    return number[0] if isinstance(number, list) else number


def _numbers(row: Row, encoder: str, sets: Sequence[str]) -> str:
    own = row.published.get(encoder, {})
    cells = []
    for name in sets:
        number = own.get(name)
        both = number if isinstance(number, list) else [] if number is None else [number]
        cells.append(" (mean ".join(f"{value:.2f}" for value in both) + ")" * (len(both) - 1))
    return " / ".join(cells) if any(cells) else ""


def _published_gain(row: Row, base: Row, encoder: str, sets: Sequence[str]) -> str:
    gains: list[str] = []
    for name in sets if not row.quoted else ():
        gain = row.gain.get(encoder, {}).get(name)
        own = _accuracy(row.published.get(encoder, {}).get(name))
        start = _accuracy(base.published.get(encoder, {}).get(name))
        if gain is None and own is not None and start is not None:
            gain = own - start
        gains.append("" if gain is None else f"{gain:+.2f}")
    return " / ".join(gains) if any(gains) else ""


def _spread(values: Sequence[float]) -> str:
    """Mean and sample deviation in percent."""
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _gain(ours: Found, base: Found) -> str:
    if not ours.accuracy or not base.accuracy:
        return ""
    return f"{statistics.mean(ours.accuracy) - statistics.mean(base.accuracy):+.2f}"


def _difference(ours: Found, published: float | None) -> str:
    if not ours.accuracy or published is None:
        return ""
    return f"{statistics.mean(ours.accuracy) - published:+.2f}"


def _aligned(lines: Sequence[Sequence[Any]]) -> str:
    """Markdown; a column without any content is left out."""
    columns = [
        column
        for column in zip(*lines, strict=True)
        if any(str(cell) for cell in column[1:]) or column[0] == "accuracy"
    ]
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    rows = [
        "| " + " | ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in zip(*columns, strict=True)
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])
