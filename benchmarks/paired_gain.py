"""Say how much more often one row is right than another: the same pictures, paired by seed.

    python benchmarks/paired_gain.py --first A-seed*-test-*.json --second B-seed*-test-*.json

takes result files of `fervor evaluate`, one for each seed of either row, and prints the gain in
accuracy with its 95 % interval and p value (`significance.gain`), and the parts of the first row's
runs that did nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervor.errors import FervorError, UsageError
from fervor.evaluation.results import read
from fervor.evaluation.significance import Estimate, gain, units


def numbers(words: str) -> NDArray[np.int64]:
    """The numbers of a line of a result file."""
    return np.array(words.split(), np.int64)


def by_seed(paths: Sequence[Path]) -> dict[int, dict[str, Any]]:
    """Results by their seeds.

    Raises:
        UsageError: two of one seed, or one of an old version, without its answers.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in paths:
        result = read(path)
        if not result.get("answers"):
            raise UsageError(f"{path} holds no answers to each picture: evaluate its run again")
        seed = result["run"]["seed"]
        if seed in found:
            raise UsageError(f"{path} is the second result of seed {seed}: give one of each")
        found[seed] = result
    return found


def paired(first: Sequence[Path], second: Sequence[Path]) -> Estimate:
    """The gain of the first row's results over the second's.

    Raises:
        UsageError: other seeds, or answers to other pictures.
    """
    ours, theirs = by_seed(first), by_seed(second)
    if ours.keys() != theirs.keys():
        raise UsageError(f"seeds {sorted(ours)} against {sorted(theirs)}: expected the same ones")
    results = [*ours.values(), *theirs.values()]
    if len({result["answers"]["pictures"] for result in results}) > 1:
        raise UsageError("the results answer other pictures: expected one split for all")
    answers = results[0]["answers"]
    label = numbers(answers["label"])
    unit = units(answers["person"].split(), len(label))

    def right(row: dict[int, dict[str, Any]]) -> NDArray[np.float64]:
        told = [numbers(row[seed]["answers"]["answer"]) == label for seed in sorted(row)]
        return np.stack(told).astype(np.float64)

    return gain(right(ours), right(theirs), unit)


def main() -> int:
    """Compare the two rows that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    for row in ("first", "second"):
        parser.add_argument(f"--{row}", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    try:
        found = paired(given.first, given.second)
    except FervorError as error:
        parser.error(str(error))
    low, high = 100 * found.low, 100 * found.high
    print(f"gain {100 * found.mean:+.2f} points ({low:+.2f} to {high:+.2f}, 95 %), ", end="")
    print(f"p = {found.p_value:.3f}")
    for path in given.first:
        for part in read(path)["run"].get("inactive") or []:
            print(f"{path.name}: {part} did nothing")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
