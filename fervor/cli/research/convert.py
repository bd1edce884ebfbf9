"""The command `fervor convert`."""

from fervor import plugins
from fervor.errors import DONE


def convert(file: str, output: str) -> int:
    """Turn a paper's weight file into safetensors, read without executing anything.

    Args:
        file: a .pt, .pth or .pth.tar file.
        output: the .safetensors file that is written.
    """
    report = plugins.load("fervor.models.convert", extra="train").convert(file, output)
    print("\n".join(report.lines()))
    print(
        f"{output}: {len(report.tensors)} tensors written, {len(report.left_out)} entries left out"
    )
    return DONE
