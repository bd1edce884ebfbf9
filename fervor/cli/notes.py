"""What modules have to say about their work."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notes(name: str) -> Iterator[None]:
    """What a module has to say about its work, on the error stream."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
