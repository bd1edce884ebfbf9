"""What a command's end says: the exit codes of `fervor`."""

DONE, FOUND, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Done; the work found a problem that it was asked to find; wrong use; stopped by the user."""
