"""Write the page's text on responsible use from docs/responsible-use.md.

python tools/release/write_responsible_use.py
"""

import argparse
import re
from pathlib import Path

import markdown


ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs" / "responsible-use.md"
TARGET = ROOT / "fervor" / "server" / "static" / "responsible-use.html"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Responsible use of fervor</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="/favicon.ico" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css">
</head>
<body>
<main class="text">
<!-- written from docs/responsible-use.md by tools/release/write_responsible_use.py -->
<p><a href="/">Back to the page</a></p>
{text}
</main>
</body>
</html>
"""


def page() -> str:
    """The page; links to other pages of the documentation, which no server holds, are texts."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", SOURCE.read_text(encoding="utf-8"))
    return PAGE.format(text=markdown.markdown(text))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    TARGET.write_text(page(), encoding="utf-8")
