"""The command line: finds the command, reads its options, turns errors into one line."""

import errno
import io
import os
import sys
from collections.abc import Sequence

from fervor import __version__
from fervor.cli import COMMANDS
from fervor.errors import DONE, INTERRUPTED, WRONG_USE, FervorError, UsageError


LONGEST = 2000
"""Letters of a line about a mistake: a damaged file may hold one word of a gigabyte."""

ADVICE = {
    errno.ENOSPC: "; make room and start again: nothing that was whole is lost",
    errno.EDQUOT: "; make room and start again: nothing that was whole is lost",
    errno.EROFS: "; name another folder",
    errno.EACCES: "; name another file or folder, or ask for the permission",
}
"""What to do where the system refuses to read or write."""


def main(given: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 0 (done), 1 (problem found), 2 (wrong use), 130 (stopped)."""
    _usable_streams()
    words = list(sys.argv[1:] if given is None else given)
    command = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), "")
    try:
        return _run(command, words)
    except (FervorError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our rows has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return DONE
        print(f"fervor {command}".rstrip() + f": {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt as stopped:
        if str(stopped):
            print(f"fervor {command}: {_printable(str(stopped))}", file=sys.stderr)
        return INTERRUPTED


def _usable_streams() -> None:
    """Names that the output's encoding lacks show as escapes; closed streams take everything."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else a file that is opened next would get the stream's number
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(command: str, words: list[str]) -> int:
    if words in (["--help"], ["-h"]):
        print(_help())
        return DONE
    if words == ["--version"]:
        print(f"fervor {__version__}")
        return DONE
    if not command:
        group = [name for name in COMMANDS if words and name.startswith(f"{words[0]} ")]
        typed = " ".join(words[: 2 if group else 1])
        raise UsageError(
            (f"unknown command {typed}" if typed else "no command")
            + f": expected one of {', '.join(group or COMMANDS)}, --help, --version"
        )
    from fervor.cli.arguments import arguments_of

    function = COMMANDS[command]
    return function(**arguments_of(command, function, words[len(command.split()) :]))


def _help() -> str:
    lines = [
        f"  {name:12}{(function.__doc__ or '').splitlines()[0]}"
        for name, function in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: fervor COMMAND ...",
            "",
            "Facial expression recognition with vision-language models.",
            "",
            *lines,
            "",
            "fervor COMMAND --help lists a command's options; fervor --version prints the version.",
        ]
    )


def _one_line(error: FervorError | OSError) -> str:
    """What went wrong, in one line; what could command a terminal (a file's name) is escaped."""
    reason = _reason(error)
    return _printable(f"{reason[:LONGEST]} ..." if len(reason) > LONGEST else reason)


def _printable(text: str) -> str:
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )


def _reason(error: FervorError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        advice = ADVICE.get(error.errno or 0, "")
        return f"{error.filename or 'output'}: {error.strerror}{advice}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
