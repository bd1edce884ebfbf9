"""The command `fervor convert`."""

from fervor.errors import DONE, counted
from fervor.plugins import missing_extra


def convert(file: str, output: str) -> int:
    """Turn a paper's weight file into safetensors, read without executing anything.

    Args:
        file: a .pt, .pth or .pth.tar file.
        output: the .safetensors file that is written.
    """
    with missing_extra("train"):
        from fervor.models.convert import convert as converted
    report = converted(file, output)
    print("\n".join(report.lines()))
    print(
        f"{output}: {counted(len(report.tensors), 'tensor')} written, "
        f"{counted(len(report.left_out), 'entry')} left out"
    )
    return DONE
