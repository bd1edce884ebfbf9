"""Runs fervor with what makes it faster; see loop.py.

Faces smaller than 50 pixels are not looked for, as in fer with its defaults, and both networks
compute in eight bits.
"""

from fervor_driver import Fervor
from loop import serve


class Fast(Fervor):
    """The embedded model."""

    precision = "int8"
    smallest_face = 50.0


if __name__ == "__main__":
    serve(Fast)
