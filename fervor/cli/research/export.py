"""The command `fervor export`."""

from fervor.errors import DONE, UsageError, counted
from fervor.plugins import missing_extra


def export(
    *, model: str, output: str, half: bool = False, int8: bool = False, pictures: str = ""
) -> int:
    """Write a trained model as model.onnx and model.json, checked against torch.

    Args:
        model: the run folder.
        output: the model folder that is written.
        half: store kernels and matrices in half precision; they are computed with in single.
        int8: write model.int8.onnx too, whose convolutions compute in eight bits.
        pictures: with int8, a folder of cut-out faces from which the ranges of eight bits are read;
            empty for the run's own training pictures.
    """
    if pictures and not int8:
        raise UsageError(f"pictures={pictures}: needs --int8")
    with missing_extra("train"):
        from fervor.graphs.onnx import export as exported
    faces = None
    if int8:
        with missing_extra("train"):
            from fervor.graphs.quantize import add_int8, faces_of
        faces = faces_of(model, pictures)
    graph = exported(model=model, output=output, half=half)
    print(graph)
    if faces is not None:
        report = add_int8(graph.parent, faces)
        print(
            f"{report.graph}: {counted(report.bytes, 'byte')}, gives the same answer to "
            f"{report.agreement:.1%} of {counted(report.faces, 'face')}"
        )
    return DONE
