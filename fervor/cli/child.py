"""`python -m fervor.cli.child`: the command line as a process of another command.

It reads its standard input, into which that command writes nothing: the end of it is that command's
end, also by a signal that no program can hear.
"""

import os
import signal
import sys
from threading import Thread

from fervor.cli.main import main


def end_with(pipe: int) -> None:
    """Wait for the end of a pipe, a descriptor, then end this process as SIGTERM does.

    No file of Python's reads it: its lock, held by a thread that waits, would break the exit.
    """
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Thread(target=end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    sys.exit(main())
