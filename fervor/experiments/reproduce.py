"""A paper's table, row by row: what finished runs give, beside the published number.

Ours are means over seeds; a deviation is a sample deviation. Everything is read from result files,
which say themselves what they are of; what is missing is trained and evaluated where that is asked
for. A published number is judged only by runs that are the paper's in all that is known of them.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fervor.config import READING, Data, Run
from fervor.errors import UsageError, counted
from fervor.experiments.jobs import (
    Job,
    data_changes,
    reading_differences,
    run_all,
    run_differences,
    settings_that_differ,
    stored_results,
)
from fervor.experiments.paper_tables import Profile, Row, Table, data_key, put, table
from fervor.plugins import missing_extra
from fervor.recipes import changed_run, value_of


Result = Mapping[str, Any]

TEXTS = {
    "clip": ("openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14"),
    "align": ("kakaobrain/align-base",),
    "blip": ("Salesforce/blip-itm-base-coco",),
}
"""Models that recipes name on the hub, and may lie in a folder instead."""

WEIGHTS = ("encoder.weights", "text.name", "teacher.weights", "landmarks.weights")
"""Settings that name files of a machine: whether they are the paper's, a person has to say."""

MOST_SEEDS = 1000
"""Runs of a row: a table of more would be a slip."""

OF_THE_TABLE = ("name", "protocol", "root")
"""Settings of the data set that a table is made for, beside its recipes."""


@dataclass(frozen=True)
class SeedResults:
    """What the finished runs of one row give; empty where none is finished.

    Attributes:
        results: of each seed that was found.
        differ: dotted names of settings in which some of these runs are not the row's.
    """

    results: Mapping[int, Result] = field(default_factory=dict)
    differ: tuple[str, ...] = ()

    def percent(self, figure: str) -> list[float]:
        """A figure of each seed, in percent."""
        return [100 * result[figure] for result in self.results.values()]


@dataclass(frozen=True)
class Setting:
    """What a table is made for, and what replaces parts of its recipes.

    Attributes:
        profile: evidence or full.
        encoder: of the profile.
        given: the data set, and how it is read.
        seeds: of the runs.
        output: folder of result files.
        changes: settings that replace the recipes', by their dotted names.
        folders: where models lie that recipes name on the hub, by these names.
        rows: names of the rows that are run and shown; empty for all.
        same_weights: whether the person who asks says that the weights are the paper's.
        test_root: folder of the data set that the table tests on, where it is another one.
        test_aligned: folder of its aligned images.
        replaced: data settings that replace the recipes' even where they have their defaults.
    """

    profile: Profile
    encoder: str
    given: Data
    seeds: Sequence[int]
    output: Path = Path("results")
    changes: Mapping[str, Any] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    same_weights: bool = False
    test_root: str = ""
    test_aligned: str = ""
    replaced: frozenset[str] = frozenset()

    @property
    def data(self) -> str:
        """The data set as names of runs call it."""
        return data_key(self.given.name, self.given.protocol)

    @property
    def asked_data(self) -> dict[str, Any]:
        """How the data set is read where that was asked for, in training and test."""
        changes = {
            name.removeprefix("data."): value
            for name, value in self.changes.items()
            if name.startswith("data.")
        }
        return {**changes, **data_changes(self.given, self.replaced)}

    def check(self, shown: Table) -> None:
        """Look whether every row's run can have the settings that replace its recipe's.

        Raises:
            UsageError: an unknown setting, or a value of another type or beyond its limits.
        """
        for name in self.changes:
            group, _, key = name.partition(".")
            if group == "data" and key in OF_THE_TABLE:
                raise UsageError(f"--set {name}: give it as --{name}, for the whole table")
            if group == "data" and key in self.replaced:
                raise UsageError(
                    f"--set {name}: it is also given as --{name}, leave one of them out"
                )
        options = any(name.startswith("options.") for name in self.changes)
        plain = replace(self, changes={})
        for row in self.rows_of(shown):
            if row.quoted:
                continue
            recipe, run = plain.recipe(shown, row), Run()
            if self.changes:
                run = changed_run(recipe, self.changes, where=f"--set, {row.name}")
            replace(run, data=replace(run.data, **self.asked_data)).check()
            if options:
                _check_options(run.method, run.options, row)

    def rows_of(self, shown: Table) -> list[Row]:
        """The rows that are asked for.

        Raises:
            UsageError: the table has no such row.
        """
        rows = shown.rows_of(self.profile)
        names = [row.name for row in rows]
        for name in self.rows:
            if name not in names:
                raise UsageError(f"--rows {name}: {shown.name} has {'; '.join(names)}")
        return [row for row in rows if not self.rows or row.name in self.rows]

    def recipe(self, shown: Table, row: Row) -> dict[str, Any]:
        """A row's recipe on this data set, with what replaces parts of it."""
        recipe = shown.recipe(row, self.profile, self.encoder, self.data)
        named = {"name": self.given.name}
        named |= {"protocol": self.given.protocol} if self.given.protocol else {}
        recipe["data"] = {**recipe.get("data", {}), **named}
        for section, key in (name.split(".") for name in WEIGHTS):
            values = recipe.get(section, {})
            if (folder := self.folders.get(values.get(key, ""))) is not None:
                recipe[section] = {**values, key: folder}
        for name, value in self.changes.items():
            if name != "text.name" or not row.text:  # a table of texts keeps its rows' own
                put(recipe, name, value)
        return recipe

    def job(self, shown: Table, row: Row, seed: int, runs: Path = Path("runs")) -> Job:
        """A row's run with a seed, and its evaluation."""
        recipe = self.recipe(shown, row)
        return Job(
            name=recipe["name"],
            seed=seed,
            recipe=recipe,
            data=self.given,
            test=self.tested(shown),
            replaced=self.replaced,
            report=shown.report,
            runs=runs,
            output=self.output,
        )

    def tested(self, shown: Table) -> Data:
        """The data set that the table tests on."""
        if not shown.test:
            read = {name: value for name, value in self.asked_data.items() if name in READING}
            return replace(Data(self.given.name, protocol=self.given.protocol), **read)
        test = Data(cache=self.given.cache, root=self.test_root, aligned=self.test_aligned)
        test = replace(test, name=shown.test["name"], protocol=shown.test["protocol"])
        whole = shown.test.get("faces") == "largest" and not self.test_aligned
        return replace(test, faces="largest") if whole else test

    def results_of(self, shown: Table, row: Row) -> SeedResults:
        """What the finished runs of a row give: of each seed the result that is most the row's.

        Raises:
            UsageError: two results of one run say different things.
        """
        if row.quoted:
            return SeedResults()
        by_seed: dict[int, Result] = {}
        differ: set[str] = set()
        for seed in self.seeds:
            job = self.job(shown, row, seed)
            settings = job.asked().resolved()
            test = self.tested(shown)
            ranked = sorted(
                (
                    (
                        run_differences(result["run"], settings),
                        reading_differences(result["data"], test),
                        *(path, result),
                    )
                    for path, result in stored_results(self.output, job.name, seed, test)
                ),
                key=lambda item: (len(item[0]), item[0], len(item[1]), item[1]),
            )
            if not ranked:
                continue
            names, read, path, result = ranked[0]
            for other_names, other_read, other, twin in ranked[1:]:
                same = (other_names, other_read) == (names, read)
                if same and twin["accuracy"] != result["accuracy"]:
                    raise UsageError(f"{path} and {other} are of one run: move one of them away")
            by_seed[seed] = result
            differ |= {*names, *(name for name in read if self._asks_for(shown, name))}
        return SeedResults(by_seed, tuple(sorted(differ)))

    def _asks_for(self, shown: Table, name: str) -> bool:
        """Whether a result has to be read so; a finished one is shown however it was, else."""
        if shown.test:
            return bool(self.test_root) or (name == "data.aligned" and bool(self.test_aligned))
        return bool(self.given.root) or name.removeprefix("data.") in self.asked_data


def _check_options(method: str, options: dict[str, Any], row: Row) -> None:
    with missing_extra("train"):
        from fervor.methods.options import method_options
    try:
        method_options(method, options)
    except UsageError as error:
        raise UsageError(
            f"--set, {row.name}: {error}; rows with other options are chosen by --rows"
        ) from None


def reproduce(
    name: str,
    data: Data,
    *,
    given: frozenset[str] = frozenset(),
    encoder: str = "",
    profile: Profile = "evidence",
    seeds: str = "3",
    jobs: int = 1,
    test_root: str = "",
    test_aligned: str = "",
    changes: Mapping[str, Any] | None = None,
    folders: Mapping[str, str] | None = None,
    rows: Sequence[str] = (),
    same_weights: bool = False,
    output: Path = Path("results"),
    runs: Path = Path("runs"),
) -> tuple[str, list[Job]]:
    """Finish a table's runs where a data set's folder is given; the table, and jobs that failed.

    Args:
        name: of the table.
        data: the data set; without its root nothing is trained.
        given: settings of `data` that replace the recipes' even where they have their defaults.
        encoder: of the profile; empty for its first.
        profile: evidence or full.
        seeds: how many, from 0 on; some, as 1,2; or paper for the paper's own.
        jobs: runs side by side.
        test_root: folder of the data set that the table tests on, where it is another one.
        test_aligned: folder of its aligned images.
        changes: settings that replace the recipes', by their dotted names.
        folders: local folders of models, by the family that recipes name: clip, align, blip.
        rows: names of rows; empty for all.
        same_weights: the files that are given hold the paper's initial weights.
        output: folder of result files.
        runs: folder of run folders.

    Raises:
        UsageError: an unknown table, encoder, row or setting, a value that it cannot have, a row
            without a recipe, or no `test_root`.
    """
    shown = table(name)
    setting = Setting(
        profile=profile,
        encoder=shown.encoder(profile, encoder),
        given=data,
        seeds=seeds_of(seeds, shown),
        replaced=given,
        output=output,
        changes=changes or {},
        folders={
            hub: folder for family, folder in (folders or {}).items() for hub in TEXTS[family]
        },
        rows=rows,
        same_weights=same_weights,
        test_root=test_root,
        test_aligned=test_aligned,
    )
    setting.check(shown)
    own_rows = [row for row in setting.rows_of(shown) if not row.quoted]
    failed: list[Job] = []
    if data.root:
        if shown.test and not test_root:
            raise UsageError(f"{name} tests on {shown.test['name']}: give its folder, --test_root")
        todo = [setting.job(shown, row, seed, runs) for seed in setting.seeds for row in own_rows]
        failed = run_all(todo, max_workers=jobs)
    return markdown(shown, setting), failed


def seeds_of(given: str, shown: Table) -> tuple[int, ...]:
    """The seeds that are asked for.

    Raises:
        UsageError: neither a number, nor several, nor the paper's where it is known.
    """
    if given == "paper":
        if shown.conditions.seed is None:
            raise UsageError(f"--seeds paper: the seed of {shown.paper} is not published")
        return (shown.conditions.seed,)
    words = [word.strip() for word in given.removesuffix(",").split(",")]
    if not all(word.isdecimal() for word in words) or given.strip() == "0":
        raise UsageError(f"--seeds {given}: expected how many, or some as 1,2, or paper")
    several = "," in given
    numbers = [int(word) if len(word) < 11 else 2**32 for word in words]
    if max(numbers) >= 2**32 or (len(numbers) if several else numbers[0]) > MOST_SEEDS:
        raise UsageError(
            f"--seeds {given:.40}: expected {MOST_SEEDS:,} runs of a row at most, and each seed "
            "below 2^32"
        )
    return tuple(numbers) if several else tuple(range(numbers[0]))


def changes_of(words: str) -> dict[str, Any]:
    """Settings from words such as optim.epochs=1.

    Raises:
        UsageError: a word of another form.
    """
    changes = {}
    for word in words.split():
        name, equals, value = word.partition("=")
        if not equals or ("." not in name and name != "selection"):
            raise UsageError(f"--set {word}: expected words as optim.epochs=1")
        changes[name] = value_of(value)
    return changes


def markdown(shown: Table, setting: Setting) -> str:
    """The table as Markdown, its columns aligned."""
    context, sets = _context(shown, setting)
    rows = [row for row in setting.rows_of(shown) if not row.quoted or _numbers(row, context, sets)]
    results_by_row = {row.name: setting.results_of(shown, row) for row in rows}
    base = next((row for row in rows if row.name == shown.base), None)
    gains = {} if base is None else _gains(results_by_row, base)
    header = ["row", "seeds", "accuracy", "mean class accuracy"]
    header += [f"gain over {base.name}", "95 %", "p"] if base else []
    published = f"{context}: {' / '.join(sets)}"
    header += [f"published, {published}"] if sets else []
    printed = any(row.published for row in rows)
    header += ["published gain" if printed else f"published gain, {published}"] if base else []
    lines = [[*header, "difference", "verdict"]]
    for row in rows:
        ours = results_by_row[row.name]
        cells = [row.name, "quoted" if row.quoted else str(len(ours.results))]
        cells += [_spread(ours.percent("accuracy")), _spread(ours.percent("mean_class_accuracy"))]
        cells += gains.get(row.name, ["", "", ""]) if base else []
        cells += [_numbers(row, context, sets)] if sets else []
        cells += [_published_gain(row, base, context, sets)] if base else []
        number = _accuracy(row.published.get(setting.encoder, {}).get(setting.data))
        judged = verdict(ours, number, row, unlike(shown, setting, row, ours))
        idle = {part for result in ours.results.values() for part in _idle(result)}
        judged += f"; inactive: {', '.join(sorted(idle))}" if idle else ""
        lines.append([*cells, _difference(ours, number), judged])
    where = f"{setting.data}, {setting.encoder}, profile {setting.profile}"
    if setting.same_weights:
        where += "; that the initial weights are the paper's was said, not checked"
    return f"{shown.paper}, {shown.title}; ours on {where}.\n\n{_aligned(lines)}"


def unlike(shown: Table, setting: Setting, row: Row, ours: SeedResults) -> list[str]:
    """In what the runs of a row are not the paper's, or cannot be known to be."""
    conditions, test = shown.conditions, setting.tested(shown)
    recipe = setting.job(shown, row, 0).asked()
    plain = replace(setting, changes={}, folders={}).recipe(shown, row)
    changed = settings_that_differ(Run.from_values(plain).resolved(), recipe.resolved())
    differ = sorted({*ours.differ, *changed})
    reasons = [name for name in differ if name not in (*WEIGHTS, "selection")]
    modes = {result["run"]["selection"]["mode"] for result in ours.results.values()}
    if not conditions.selection:
        reasons.append("selection (not published)")
    elif modes - {conditions.selection}:
        reasons.append("selection")
    key = test.name if shown.test else setting.data
    if (expected := conditions.counts.get(key)) is not None:
        counts = {result["count"] for result in ours.results.values()} - {expected}
        reasons += [f"test pictures ({count:,}, not {expected:,})" for count in sorted(counts)]
    if key in conditions.aligned:
        unaligned = any(not result["data"]["aligned"] for result in ours.results.values())
        reasons += ["alignment"] if unaligned else []
    started = recipe.encoder.weights
    hub = conditions.weights.get(setting.encoder)
    if not setting.same_weights:
        reasons += ["initial weights"] if hub is None or started != hub else []
        reasons += [name for name in differ if name in WEIGHTS[1:]]
    return reasons


def verdict(
    ours: SeedResults, published: float | None, row: Row, different: Sequence[str] = ()
) -> str:
    """Whether the published number lies in our 95 % interval, where the two can be compared.

    The interval is that of the mean over seeds on test images that are a sample; see
    `significance.accuracy_estimate`.
    """
    if row.quoted:
        return ""
    if not ours.results:
        return "not run"
    if published is None:
        return "other data or encoder"
    if different:
        return f"not comparable: {', '.join(different)}"
    from fervor.evaluation.significance import accuracy_estimate

    outcome = accuracy_estimate([_correct(result) for result in ours.results.values()])
    if 100 * outcome.low <= published <= 100 * outcome.high:
        return "within"
    return "below" if 100 * outcome.mean < published else "above"


def _correct(result: Result) -> tuple[Any, Any]:
    """Whether each image is right [n], and its person [n]; those of old files are all alike."""
    import numpy as np

    answers = result.get("answers")
    if answers is None:
        right = np.zeros(result["count"])
        right[: round(result["accuracy"] * result["count"])] = 1
        return right, np.arange(result["count"])
    label, answer, person = (
        np.array(answers[key].split(), int) for key in ("label", "answer", "person")
    )
    return (label == answer).astype(float), person if len(person) else np.arange(len(label))


def _gains(results_of: Mapping[str, SeedResults], base: Row) -> dict[str, list[str]]:
    """Each row's gain over the base, its 95 % interval, and its p value, corrected (Holm).

    Images and seeds are paired where both rows were tested on the same images and the files
    hold every answer; else the seeds alone speak. Behind the gain stands how many seeds both rows
    have, where either has others too: the means over all seeds are then of other runs.
    """
    from fervor.evaluation.significance import Estimate, estimate, gain, holm

    estimates: dict[str, Estimate] = {}
    seeds: dict[str, str] = {}
    for name, ours in results_of.items():
        shared = sorted(ours.results.keys() & results_of[base.name].results.keys())
        if name == base.name or not shared:
            continue
        pairs = [(ours.results[seed], results_of[base.name].results[seed]) for seed in shared]
        if ours.results.keys() != results_of[base.name].results.keys():
            seeds[name] = f" ({counted(len(shared), 'seed')} in both)"
        marks = {(one.get("answers") or {}).get("pictures") for pair in pairs for one in pair}
        if len(marks) == 1 and None not in marks:
            import numpy as np

            first, second = (np.stack([_correct(pair[i])[0] for pair in pairs]) for i in (0, 1))
            estimates[name] = gain(first, second, _correct(pairs[0][0])[1])
        else:
            differences = [one["accuracy"] - other["accuracy"] for one, other in pairs]
            estimates[name] = estimate(differences, 0.0)
    adjusted = holm([one.p_value for one in estimates.values()])
    cells = {base.name: ["+0.00" if results_of[base.name].results else "", "", ""]}
    for (name, one), p_value in zip(estimates.items(), adjusted, strict=True):
        interval = f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
        alone = one.low == one.high  # one seed without its answers
        mean = f"{100 * one.mean:+.2f}{seeds.get(name, '')}"
        cells[name] = [mean, *(("", "") if alone else (interval, _p(p_value)))]
    return cells


def _idle(result: Result) -> list[str]:
    """Parts of a run that did nothing, by their names: such a row shows no lack of a gain."""
    return [part.partition(" (")[0] for part in result["run"].get("inactive") or []]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _context(shown: Table, setting: Setting) -> tuple[str, list[str]]:
    """The encoder and data sets of the published numbers that are shown: ours, or the first."""
    rows = shown.rows_of(setting.profile)
    if any(setting.data in row.published.get(setting.encoder, {}) for row in rows):
        return setting.encoder, [setting.data]
    for row in rows:  # the same encoder on other data comes before another encoder
        if own := row.published.get(setting.encoder):
            return setting.encoder, list(own)
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


def _difference(ours: SeedResults, published: float | None) -> str:
    if not ours.results or published is None:
        return ""
    return f"{statistics.mean(ours.percent('accuracy')) - published:+.2f}"


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
