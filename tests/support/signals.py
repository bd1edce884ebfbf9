"""What a child process does with signals."""

import signal


def hear_interruptions() -> None:
    """In the child: SIGINT as on a terminal; what runs in the background may have it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
