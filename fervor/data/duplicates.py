"""Images that occur more than once, told by their decoded pixels.

An image that stands in both train and test makes a test score too high. Formats and metadata do
not matter; an image that was resized or compressed again is another one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from fervor.data.datasets import Sample
from fervor.io import sources
from fervor.io.prefetch import in_threads


CHUNK = 64
"""Images that are decoded at a time; so many are in memory."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells an image from another: `digest`; or why it cannot be read: `error`."""

    digest: bytes
    error: str = ""


def fingerprints(
    samples: Iterable[Sample], *, quick: bool = False, threads: int = 0
) -> Iterator[Fingerprint]:
    """The fingerprint of each sample, in order: of its pixels and its face's box.

    Args:
        samples: which images.
        quick: of the file's bytes, and only the header is decoded.
        threads: how many decode; 0 for all cores.
    """
    look = _of_file if quick else _of_pixels
    waiting = iter(samples)
    with in_threads(threads) as each:
        while part := list(islice(waiting, CHUNK)):
            yield from each(look, part)


def repeated(samples: Sequence[Sample], others: Iterable[Sample], *, threads: int = 0) -> list[int]:
    """Places of those samples whose pixels also occur among the others, in order.

    An evaluation leaves them out where the others were trained on. Unreadable images are no
    repetition of anything.
    """
    digests = {
        print_.digest for print_ in fingerprints(others, threads=threads) if not print_.error
    }
    prints = fingerprints(samples, threads=threads)
    return [place for place, print_ in enumerate(prints) if print_.digest in digests]


def _of_pixels(sample: Sample) -> Fingerprint:
    if sample.pixels:
        grey = np.frombuffer(sample.pixels, np.uint8).reshape(sample.side, sample.side)
        frame = sources.frame_of(grey)
    else:
        frame = sources.read_image(sample.path)
    if frame.image is None:
        return Fingerprint(b"", frame.error or "cannot be read")
    shape = repr((frame.image.shape, sample.box))
    return Fingerprint(hashlib.sha256(shape.encode() + frame.image.tobytes()).digest())


def _of_file(sample: Sample) -> Fingerprint:
    if sample.pixels:
        return Fingerprint(hashlib.sha256(sample.pixels).digest())
    try:
        with open(sample.path, "rb") as file:
            with Image.open(file, formats=sources.FORMATS) as image:
                image.verify()
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
    except Exception as error:  # decoders raise nearly anything on damaged files
        return Fingerprint(b"", " ".join(str(error).split()) or type(error).__name__)
    digest.update(repr(sample.box).encode())
    return Fingerprint(digest.digest())
