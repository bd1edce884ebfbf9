"""The command `fervor explain`."""

from pathlib import Path
from typing import Literal

from fervor.cli.using import listed
from fervor.errors import DONE, PROBLEM, counted


def explain(
    inputs: list[str],
    *,
    model: str = "",
    labels: str = "",
    faces: Literal["all", "largest", "precropped"] = "all",
    output: str = "explanations",
    heat: Literal["occlusion", "similarity"] = "occlusion",
    top: int = 3,
    smallest_face: float = 0.0,
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
        heat: occlusion, by how much the odds of an expression fall where a place of the face is
            blurred, in 81 more passes of the model for each face; or similarity of places with
            the expression's text, in none.
        top: heat maps in a drawing, those of the most probable expressions.
        smallest_face: longer side in pixels of the smallest face that is looked for, as in predict.
        threads: threads of each network; 0 for all cores.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    from fervor.inference.predictor import Predictor
    from fervor.outputs.explanations import ROWS, run

    predictor = Predictor(
        model or None,
        labels=listed(labels),
        faces=faces,
        threads=threads,
        smallest_face=smallest_face,
    )
    counts = run(predictor, inputs, Path(output), top=top, heat=heat)
    print(f"{counted(counts['ok'], 'face')} drawn in {output}, their rows in {Path(output) / ROWS}")
    return PROBLEM if strict and counts["no_face"] + counts["error"] else DONE
