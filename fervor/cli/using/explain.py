"""The command `fervor explain`."""

from pathlib import Path
from typing import Literal

from fervor.cli.using import listed
from fervor.errors import DONE, FOUND


def explain(
    inputs: list[str],
    *,
    model: str = "",
    labels: str = "",
    faces: Literal["all", "largest", "precropped"] = "all",
    output: str = "explanations",
    top: int = 3,
    threads: int = 0,
    strict: bool = False,
) -> int:
    """Draw what speaks for the expression that each face shows: places of the face, and cues.

    Args:
        inputs: pictures, or folders that are searched for them.
        model: a model folder, or embedded or vlm, which fervor ships; empty for embedded, with
            labels for vlm.
        labels: words or sentences to choose of instead of the model's classes, separated by commas,
            or by semicolons where they hold commas.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        output: folder of the drawings, one for each face, and of their rows.
        top: heat maps in a drawing, those of the most probable expressions.
        threads: threads of each network; 0 for all cores.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    from fervor.inference.predictor import Predictor
    from fervor.outputs.explanations import ROWS, run

    predictor = Predictor(model or None, labels=listed(labels), faces=faces, threads=threads)
    counts = run(predictor, inputs, Path(output), top=top)
    print(f"{counts['ok']} faces drawn in {output}, their rows in {Path(output) / ROWS}")
    return FOUND if strict and counts["no_face"] + counts["error"] else DONE
