"""The command `fervor robustness`."""

from fervor.cli.research import check_reading
from fervor.config import Data
from fervor.errors import DONE, counted
from fervor.plugins import missing_extra


def robustness(
    *,
    model: str,
    data: Data,
    given: frozenset[str] = frozenset(),
    split: str = "test",
    output: str = "results/robustness",
    baseline: str = "",
    pictures: int = 0,
    seed: int = 0,
    report: bool = False,
) -> int:
    """Measure a model under corruptions: occlusion, pose, light, loss of detail.

    Args:
        model: a run folder or model folder; embedded for the one that fervor ships.
        data: which pictures.
        given: names of the options on the command line.
        split: train, valid or test.
        output: folder of result files.
        baseline: a model folder to compare with, or its result file of the same pictures.
        pictures: how many pictures, chosen by the seed; 0 for all.
        seed: of the choice and of everything that is random in a corruption.
        report: draw accuracy over severity beside the result file.
    """
    check_reading(given)
    with missing_extra("train"):
        from fervor.evaluation.robustness import robustness as measure
    path, result = measure(
        model,
        data,
        split=split,
        output=output,
        baseline=baseline,
        pictures=pictures,
        seed=seed,
        report=report,
    )
    print(f"{'':16}" + "".join(f"{severity:>8}" for severity in range(1, 6)) + "    mean")
    for name, row in result["corruptions"].items():
        shown = [*row["accuracy"], row["mean_accuracy"]]
        print(f"{name:16}" + "".join(f"{accuracy:8.1%}" for accuracy in shown))
    print(
        f"clean {result['clean']['accuracy']:.2%}, corrupted {result['mean_accuracy']:.2%} on ",
        end="",
    )
    print(f"{counted(result['count'], 'picture')}")
    if (other := result.get("baseline")) and other["mean_corruption_error"] is not None:
        error = other["mean_corruption_error"]
        print(f"mean corruption error {error:.1%} of that of {other['model']}")
    print(f"written to {path}")
    return DONE
