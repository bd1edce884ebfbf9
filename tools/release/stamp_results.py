"""Add the checksum to result files that were written before results had one.

    python tools/release/stamp_results.py results/**/*.json

A file that has a checksum is left as it is, so that a changed one cannot be made to look whole.
"""

import json
import sys
from pathlib import Path

from fervor.evaluation import results
from fervor.io import provenance


def main() -> None:
    """Stamp the files that the command line names."""
    for name in sys.argv[1:]:
        path = Path(name)
        before = json.loads(path.read_text(encoding="utf-8"))
        if results.CONTENT in before:
            continue
        stamped = {**before, results.CONTENT: results.checksum(before)}
        provenance.write_text(path, json.dumps(stamped, indent=1) + "\n")
        after = results.read(path)
        del after[results.CONTENT]
        assert after == before, f"{path} changed"
        print(f"{path} stamped; its {len(before)} fields are as they were")


if __name__ == "__main__":
    main()
