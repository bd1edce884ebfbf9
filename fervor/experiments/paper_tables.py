"""Tables of papers as data: the rows, the runs that repeat them, and the published numbers.

papers/*.yaml holds a paper's tables. A row names a run by a pattern, such as ke/ferplus-mobilenet-
evidence and the row's suffix; where the package has a recipe of that name, that is the run, and
otherwise it is made from the recipe of the complete method and what the row sets.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from fervor.data.datasets import protocol_of
from fervor.errors import UsageError
from fervor.recipes import RECIPES, nearest, recipes


PAPERS = Path(__file__).parent / "papers"

Profile = Literal["evidence", "full"]
Numbers = Mapping[str, Mapping[str, float | list[float]]]
"""By the paper's encoder, then by data set: accuracy in percent, or accuracy and mean class's."""

BASE_DATA = "ferplus"
"""Whose recipes other data sets start from where they have none of their own."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as the table shows it.
        method: where it is another one than the table's.
        suffix: what its run is called beside the complete method's.
        profile: the only profile in which it is run; empty for both.
        set: settings by their dotted names, which replace the complete method's.
        text: name of the text encoder, where it is another one.
        published: the paper's numbers.
        gain: what the paper says that it gains over the table's base, where only that is printed.
        quoted: another method's number that the paper quotes; not a run of ours.
    """

    name: str
    method: str = ""
    suffix: str = ""
    profile: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    published: Numbers = field(default_factory=dict)
    gain: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    quoted: bool = False


@dataclass(frozen=True)
class Conditions:
    """How a paper's numbers were made, as far as it is known; empty where it is not.

    Attributes:
        selection: paper = the best epoch on test, honest = on validation.
        seed: of the paper's runs.
        weights: what each encoder started from.
        counts: test images of each data set.
        aligned: data sets whose images the paper aligned itself.
    """

    selection: str = ""
    seed: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    aligned: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """One table or figure of a paper.

    Attributes:
        name: what the command line calls it.
        title: what it shows.
        paper: the paper.
        method: of its rows.
        names: patterns of the runs' names, by profile and encoder.
        rows: in the paper's order.
        base: the row over which gains are; empty for none.
        test: name and protocol of the data set that is tested on, where it is another one.
        report: whether a report with figures belongs to each row.
        conditions: how the published numbers were made.
    """

    name: str
    title: str
    paper: str
    method: str
    names: Mapping[str, Mapping[str, str]]
    rows: tuple[Row, ...]
    base: str = ""
    test: Mapping[str, str] = field(default_factory=dict)
    report: bool = False
    conditions: Conditions = field(default_factory=Conditions)

    def encoder(self, profile: str, encoder: str) -> str:
        """The encoder that was asked for, or the profile's first.

        Raises:
            UsageError: the profile has no such encoder.
        """
        names = self.names[profile]
        if encoder and encoder not in names:
            raise UsageError(
                f"--encoder {encoder}: {self.name} in profile {profile} has {', '.join(names)}"
            )
        return encoder or next(iter(names))

    def rows_of(self, profile: str) -> tuple[Row, ...]:
        """The rows that a profile shows."""
        return tuple(row for row in self.rows if row.profile in ("", profile))

    def run_name(self, row: Row, profile: str, encoder: str, data: str) -> str:
        """What a row's run is filed under, without its seed."""
        pattern = self.names[profile][encoder]
        return pattern.format(method=row.method or self.method, data=data) + row.suffix

    def recipe(self, row: Row, profile: str, encoder: str, data: str) -> dict[str, Any]:
        """The settings of a row's run, complete but for its data set's folder and its seed.

        Raises:
            UsageError: neither the row nor its method has a recipe for this encoder.
        """
        name = self.run_name(row, profile, encoder, data)
        packaged = recipes()
        if name in packaged:
            return {**_read(name), "name": name}
        pattern = self.names[profile][encoder]
        complete = [pattern.format(method=self.method, data=key) for key in (data, BASE_DATA)]
        base_name = next((base for base in complete if base in packaged), None)
        if base_name is None:
            raise UsageError(f"{self.name}, row {row.name}: no recipe {name}, nor {complete[-1]}")
        values = _read(base_name)
        if base_name != complete[0]:  # what is FERPlus's alone
            values["data"] = {
                key: value
                for key, value in values["data"].items()
                if key not in ("protocol", "train_protocol", "annotations", "target")
            }
            if data.startswith("affectnet"):  # as SCN, KE-FER and others draw its images
                values["data"]["sampling"] = "imbalance"
        settings = {**row.set}
        settings |= {"method": row.method} if row.method else {}
        settings |= {"text.name": row.text} if row.text else {}
        for key, value in settings.items():
            put(values, key, value)
        return {**values, "name": name}


def data_key(name: str, protocol: str) -> str:
    """What a data set is called in names of runs: AffectNet's protocols have their own names."""
    rule = protocol_of(name, protocol)
    if name == "affectnet":
        return rule
    return name if rule == protocol_of(name, "") else f"{name}-{rule}"


@cache
def tables() -> dict[str, Table]:
    """All tables by name."""
    by_name = {}
    for path in sorted(PAPERS.glob("*.yaml")):
        paper = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, content in paper["tables"].items():
            rows = tuple(Row(**row) for row in content.pop("rows"))
            common = {key: paper[key] for key in ("paper", "method", "names")}
            common["conditions"] = Conditions(**paper.get("conditions", {}))
            by_name[name] = Table(name=name, rows=rows, **common, **content)
    return by_name


def table(name: str) -> Table:
    """A table by name.

    Raises:
        UsageError: there is none of that name.
    """
    by_name = tables()
    if name not in by_name:
        raise UsageError(
            f"unknown table {name!r}: expected one of {', '.join(nearest(name, by_name))}"
        )
    return by_name[name]


def _read(recipe: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text("utf-8"))
    return values


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted name."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = deepcopy(value)
