"""A file has its name when it is whole, and else nothing is there."""

from pathlib import Path

import pytest

from fervor.io.atomic import aside


def test_it_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.png"
    path.write_text("before")
    with aside(path) as partial:
        assert partial.suffix == ".png"
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_end_before_it_is_whole_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.png"
    path.write_text("before")
    with pytest.raises(error), aside(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
