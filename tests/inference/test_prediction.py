"""How an answer shows itself in a notebook."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from tests.inference.test_smoothing import face


class Balanced(HTMLParser):
    """Counts open tags and collects the words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def shown(html: str) -> str:
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return " ".join(parser.words)


def test_a_face() -> None:
    prediction = face(1.25, 0.75, track=3)
    html = prediction._repr_html_()
    words = shown(html)
    assert "clip.mp4, 1.250 s, face 0, track 3 at 0, 0 (9 x 9): neutral (75.0%)" in words
    assert "anger 0.250" in words
    assert re.findall(r"width:([\d.]+)%", html) == ["75.0", "25.0"]


def test_no_face_and_a_damaged_picture() -> None:
    empty = face(
        *(None, 0.0),
        **{"track": None, "face": None, "box": None, "prob": None, "probabilities": {}},
    )
    assert shown(replace(empty, status="no_face")._repr_html_()) == "clip.mp4: no face"
    broken = replace(empty, status="error", error="the file is empty (0 bytes)")
    assert shown(broken._repr_html_()) == "clip.mp4: error: the file is empty (0 bytes)"


def test_names_are_text_and_no_markup() -> None:
    hostile = face(None, 0.5, track=None, source="<script>alert(1)</script>.jpg")
    hostile = replace(hostile, probabilities={"<b>": 1.0}, label="<b>")
    html = hostile._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "<script>alert(1)</script>.jpg" in shown(html)
