"""README and docs: marked blocks run, links lead somewhere, stated facts are those of the code."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fervor
from fervor.data.datasets import affectnet, ckplus, dataset, rafdb
from fervor.data.datasets.ferplus import COUNTS
from fervor.io.image_header import header
from fervor.io.sources import MAX_PIXELS
from fervor.labels import SYNONYMS
from fervor.plugins import DATASETS
from fervor.prompts.templates import TEMPLATES


ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "benchmarks/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}

BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
OURS = re.compile(r"\b((?:benchmarks|examples|fervor|scripts|tests|tools)/[\w./-]*\w)")
RECIPE = re.compile(r"--config ([a-z0-9-]+(?:/[a-z0-9-]+)+)")


def blocks(page: str) -> list[tuple[bool, str, str]]:
    """Whether it is marked, language and text of each fenced block."""
    return [(bool(mark), language, text) for mark, language, text in BLOCK.findall(PAGES[page])]


RUNNABLE = [
    pytest.param(language, text, id=f"{page}-{number}")
    for page in PAGES
    for number, (marked, language, text) in enumerate(blocks(page))
    if marked
]


def run(command: list[str], folder: Path) -> str:
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": scripts},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def commands(text: str) -> list[tuple[str, str]]:
    """The lines of a console block after `$ `, each with the output that is shown below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    pairs = [part.split("\n", 1) for part in parts]
    return [(command, output.strip("\n")) for command, output in pairs]


@pytest.mark.parametrize(("language", "text"), RUNNABLE)
def test_marked_block_runs(language: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if language == "python":
        run([sys.executable, "-W", "error", "-c", text], tmp_path)
        return
    assert language == "console", f"a block of kind {language} cannot be run"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for command, expected in commands(text):
        output = run(["bash", "-euo", "pipefail", "-c", command], tmp_path)
        if expected:
            assert doctest.OutputChecker().check_output(f"{expected}\n", output, flags), output


def test_some_blocks_are_run() -> None:
    assert {param.values[0] for param in RUNNABLE} == {"python", "console"}


STAND_IN = """#!/bin/bash
while [[ $1 != --output ]]; do [[ $1 = pictures/* ]] && folder=$1; shift; done
echo "$folder" >> asked.txt
case $folder in *empty*) exit 2 ;; *stopped*) exit 130 ;; esac
[[ -d $(dirname "$2") ]] || exit 2
touch "$2"
"""
"""In place of fervor: writes no rows of a folder without pictures, nor into no folder."""


def test_the_loop_over_folders_goes_on_but_after_an_interruption(tmp_path: Path) -> None:
    (loop,) = (text for _, language, text in blocks("docs/cluster.md") if language == "bash")
    program = tmp_path / "bin" / "fervor"
    program.parent.mkdir()
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    for name in ("a", "b empty", "c", "d stopped", "e"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    for _ in range(2):
        subprocess.run(["bash", "-c", loop], cwd=tmp_path, env={**os.environ, "PATH": path})
    assert sorted(file.name for file in (tmp_path / "rows").iterdir()) == ["a.parquet", "c.parquet"]
    asked = (tmp_path / "asked.txt").read_text(encoding="utf-8").splitlines()
    again = ["pictures/b empty/", "pictures/d stopped/"]
    assert asked == ["pictures/a/", again[0], "pictures/c/", again[1], *again]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_are_python(page: str) -> None:
    for _, language, text in blocks(page):
        if language == "python":
            compile(text, page, "exec")


def anchors(page: Path) -> set[str]:
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall(PAGES[page]):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page} links to {target}"


TEXTS = {"api", "decisions", "python", "responsible-use", "results"}
"""Pages that begin otherwise: lists, words to people, and tables under headings of their own."""


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if re.fullmatch(r"docs/(methods/)?[\w-]+\.md", page) and Path(page).stem not in TEXTS
    ],
)
def test_pages_begin_with_a_command_and_a_table_or_an_image(page: str) -> None:
    screen = re.split(r"^## ", PAGES[page], maxsplit=1, flags=re.MULTILINE)[0]
    assert "\n```" in screen, f"{page} shows no command before its first heading"
    assert "|---" in screen or "![" in screen, f"{page} shows no table before its first heading"


def test_every_decision_is_listed() -> None:
    listed = PAGES["docs/decisions.md"]
    for page in ROOT.glob("docs/decisions/*.md"):
        assert f"(decisions/{page.name})" in listed, f"docs/decisions.md does not link {page.name}"


@pytest.mark.parametrize("page", PAGES)
def test_recipes_that_are_named_exist(page: str) -> None:
    for recipe in RECIPE.findall(PAGES[page]):
        places = (ROOT / "fervor" / "recipes" / f"{recipe}.yaml", ROOT / f"{recipe}.yaml")
        assert any(place.is_file() for place in places), f"no recipe {recipe}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    if page == "CHANGELOG.md":  # tells of earlier versions
        return
    for line in PAGES[page].splitlines():
        for name in OURS.findall(line):
            assert "NAME" in name or (ROOT / name).exists(), f"{page} names {name}"


def test_tables_of_results_are_those_of_their_files() -> None:
    run([sys.executable, "tools/release/write_results.py", "--check"], ROOT)


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda path: path.name)
def test_tests_that_scripts_name_exist(script: Path) -> None:
    """They run by hand, so that nobody sees when tests move."""
    for name in re.findall(r"\btests/[a-z]\w*(?:/\w+|\.py)*", script.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


def test_readme_tree_exists() -> None:
    tree = next(text for _, language, text in blocks("README.md") if language == "text")
    for line in tree.splitlines():
        folder = ROOT / "fervor" if line.startswith(" ") else ROOT
        assert (folder / line.split()[0]).is_dir(), f"the README's tree names {line}"


def test_counts_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.+)\|$", PAGES["docs/data.md"], re.MULTILINE)
    stated = {name: cells.split("|") for name, cells in rows if "/" in cells}
    assert stated.keys() == {protocol for counts in COUNTS.values() for protocol in counts}
    for source, place in {"label.csv": 0, "fer2013new.csv": 1, "fer2013.csv": 2}.items():
        for protocol, cells in stated.items():
            totals = map(sum, COUNTS[source].get(protocol, {}).values())
            assert cells[place].strip() == " / ".join(f"{total:,}" for total in totals)


def class_table(title: str) -> dict[str, dict[str, int]]:
    """A table of docs/data.md whose columns are expressions, by its first cell: rows of numbers."""
    lines = PAGES["docs/data.md"].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} | "))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    size = next(n for n, row in enumerate(cells) if len(row) < 2)
    names = cells[0][1:]
    return {
        row[0]: {
            name: int(cell.replace(",", "")) for name, cell in zip(names, row[1:], strict=True)
        }
        for row in cells[2:size]
    }


@pytest.mark.parametrize(
    ("title", "counts"),
    [
        ("RAF-DB", rafdb.COUNTS),
        ("AffectNet", affectnet.COUNTS),
        ("CK+", {"sequences": {name: n for name, n in ckplus.COUNTS.items() if n}}),
    ],
)
def test_classes_are_those_of_the_code(title: str, counts: dict[str, dict[str, int]]) -> None:
    expected = {split: {**by, "all": sum(by.values())} for split, by in counts.items()}
    stated = class_table(title)
    assert stated == expected
    assert list(map(list, stated.values())) == list(map(list, expected.values()))  # their order


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_and_protocol_is_described(name: str) -> None:
    assert re.search(rf"^\| \[`{name}`\]\(#", PAGES["docs/data.md"], re.MULTILINE)
    for protocol in dataset(name).PROTOCOLS:
        assert f"`{protocol}`" in PAGES["docs/protocols.md"]


def test_synonyms_are_those_of_the_code() -> None:
    section = PAGES["docs/data.md"].split("## Your own folder")[1]
    missing = [word for word in SYNONYMS if not re.search(rf"\b{word}\b", section)]
    assert not missing, f"docs/data.md does not name {missing}"


def test_templates_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d) \| (.+\[CLS\].+) \|$", PAGES["docs/methods/ke.md"], re.MULTILINE)
    assert {int(number): template for number, template in rows} == TEMPLATES


@pytest.mark.parametrize("method", ["ke", "mpa", "lacovl", "vlm"])
def test_options_are_shown_from_the_code_with_all_their_names(method: str) -> None:
    pytest.importorskip("torch", reason="methods need the [train] extra")
    from dataclasses import fields

    from docstring_parser import parse

    from fervor.methods import method_class

    options: Any = method_class(method).Options
    path = f"{options.__module__}.{options.__qualname__}"
    assert f"\n::: {path}\n" in PAGES[f"docs/methods/{method}.md"]
    described = {attribute.arg_name for attribute in parse(options.__doc__).params}
    assert described == {field.name for field in fields(options)}


def test_the_unseen_words_are_those_of_the_data() -> None:
    from fervor.prompts.captions import unseen

    page = PAGES["docs/methods/vlm.md"]
    missing = [word for words in unseen().values() for word in words if word not in page]
    assert not missing, f"docs/methods/vlm.md does not name {missing}"


def test_bounds_are_those_of_the_code() -> None:
    page = " ".join(PAGES["docs/trust.md"].split())
    for sentence in (
        f"at most {MAX_PIXELS // 1_000_000} megapixels, sides of {header.MAX_SIDE:,}, "
        f"{header.MAX_SCANS} scans of a JPEG",
        f"{header.MAX_PARTS:,} parts",
        f"{header.MAX_TILES:,} tiles, and {['', 'once', 'twice'][header.CODED]} as many pixels",
    ):
        assert sentence in page, sentence
    pytest.importorskip("torch", reason="reads files of torch")
    from fervor.models.pickles import GROWTH

    assert f"with at most {GROWTH} bytes of memory for each byte of the file" in page


def report_tables(head: str) -> list[list[list[str]]]:
    """The cells of each table of the report whose first line begins so."""
    tables = re.findall(rf"^{re.escape(head)}.*\n\|-.*\n((?:\|.*\n)+)", PAGES[REPORT], re.MULTILINE)
    return [[re.split(r" *\| *", line)[1:-1] for line in table.splitlines()] for table in tables]


REPORT = "benchmarks/REPORT.md"


def test_measured_faults_are_those_of_the_report() -> None:
    page = PAGES["docs/trust.md"]
    (kills,) = report_tables("| command | kills |")
    assert f"| {sum(int(row[1]) for row in kills)} kills: " in page
    ends = [tuple(map(int, row[3].split(" of "))) for row in kills]
    assert all(alike == all_of_them for alike, all_of_them in ends)
    assert f"the {sum(alike for alike, _ in ends)} commands that came to their end" in page
    damaged = report_tables("| files | damaged |")
    starts = ("damaged files of 22 kinds, 50,000 of each or more", "more, led by Atheris")
    for start, rows in zip(starts, damaged, strict=True):
        count = sum(int(row[1].replace(",", "")) for row in rows)
        (stated,) = re.findall(rf"^\| {count:,} {start} \| (.+) \| `", page, re.MULTILINE)
        seconds = max(float(row[3].removesuffix(" s")) for row in rows)
        growth = max(int(row[4].removesuffix(" MB")) for row in rows)
        assert re.search(rf"; {seconds:g}0? s and {growth} MB\b.* at most$", stated)
    assert len(damaged[0]) == 14  # the label files are of nine kinds
    assert all(int(row[1].replace(",", "")) >= 50_000 for row in damaged[0])


def test_ci_runs_the_readme_s_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in lines
    section = PAGES["README.md"].split("<!-- tests -->\n")[1]
    assert section.startswith("```console\n$ pip install -c constraints.txt")
    assert section.splitlines()[1].endswith("scripts/test")


def test_docs_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the [docs] extra")
    site = str(tmp_path / "site")
    run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site], ROOT)
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()
    interface = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in fervor.__all__ if f'id="fervor.{name}"' not in interface]
    assert missing == ["__version__"], "docs/api.md shows every other public name"
