"""Damage to bytes, a function of a seed: what disks, networks and bad intentions do to files."""

import random
from collections.abc import Sequence


NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00" * 4, b"\xff" * 8)
WORDS = (
    *(b"-1", b"1e999", b"nan", b"99999999999999999999", b"0x10", b'"', b"'", b"\n", b"\r\n", b","),
    *(b"null", b"{}", b"[]", b"[" * 60, b"../", b"/etc/passwd", b"\\ud800", b"\xef\xbb\xbf"),
    *(b"!!python/object/apply:os.getcwd []", b"&a [*a]", b"\xff\xfe", b"\x00", "é".encode()),
)


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds after one to eight changes."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(data) + 1)
        length = min(len(data) - at, 1 << draw.randrange(8))
        kind = draw.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = draw.randbytes(length)
        elif kind == 5:
            number = draw.choice(NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 6:
            data[at:at] = draw.choice(WORDS)
        elif kind == 7:
            other = draw.choice(seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
    return bytes(data if draw.random() > 0.1 else data[: draw.randrange(len(data) + 1)])
