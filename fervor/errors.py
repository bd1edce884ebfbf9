"""The exceptions a user can meet.

FervorError
├── UsageError   a wrong option, name or combination of them
├── InputError   a picture, video or folder that is missing or cannot be read
├── DataError    a data set that differs from its official layout, labels or counts
├── ModelError   a model folder or weight file that is missing, damaged or of another kind
└── EndpointError   a server or cluster that refuses, does not answer, or answers nonsense

Each message is one line: what was given, what was expected, what to do. `counted` writes its
numbers of things.
"""


class FervorError(Exception):
    """Root of all errors that fervor raises on purpose; the command line prints its one line."""


class UsageError(FervorError):
    """A wrong option, name or combination of them."""


class InputError(FervorError):
    """A picture, video or folder that is missing or cannot be read."""


class DataError(FervorError):
    """A data set that differs from its official layout, labels or counts."""


class ModelError(FervorError):
    """A model folder or weight file that is missing, damaged or of another kind."""


class EndpointError(FervorError):
    """A server or cluster that refuses, does not answer, or answers nonsense."""


def counted(number: float, noun: str) -> str:
    """A number of things in words, their noun given in the singular: "1 face", "3,137 boxes"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    if number == 1:
        return f"{shown} {noun}"
    if noun.endswith("ry"):
        return f"{shown} {noun[:-1]}ies"
    return f"{shown} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"


DONE, PROBLEM, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Done; the work found a problem that it was asked to find; wrong use; stopped by the user."""
