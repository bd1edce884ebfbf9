"""`python -m fervor`: the command line."""

import sys

from fervor.cli.main import main


if __name__ == "__main__":
    sys.exit(main())
