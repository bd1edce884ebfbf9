"""The tools that are compared: how each is installed, and how its driver is started.

fervor runs twice: with its defaults, and with what makes it faster (drivers/fervor_fast_driver.py).
Each tool lives in an environment of its own below a working folder, never in this one. The pins are
those that were found to run without a network:

fer 25.10.3 as its package asks for does not run: setuptools 81 dropped `pkg_resources`, and OpenCV
5 has no Haar cascade that it could load. It is installed without its declared dependencies, with
those that its picture path imports. facenet-pytorch (its other detector, which needs torch and
torchvision) and moviepy (sound of videos) are left out, so its size here is a lower bound.

@vladmandic/face-api 1.7.15 brings its weights; the WASM backend of TensorFlow.js and the decoder
that its own demonstration for Node uses are installed beside it.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path


HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
FER = (
    (
        "tensorflow==2.21.*",
        "opencv-python-headless<5",
        "setuptools<81",
        "pandas",
        "requests",
        "pillow",
    ),
    ("--no-deps", "fer==25.10.3"),
)
FACE_API = (
    "@vladmandic/face-api@1.7.15",
    "@tensorflow/tfjs@4.22.0",
    "@tensorflow/tfjs-backend-wasm@4.22.0",
    "@canvas/image@2.0.0",
)
FAST = "fervor_fast"
FERVOR_VIDEO = ("av", "av.libs", "av-*.dist-info")
READY = ".installed"
INSTALL_SECONDS = 3600


@dataclass(frozen=True)
class Tool:
    """One tool that is ready to run.

    Attributes:
        name: as in tables.
        driver: the words that start its driver, up to the number of threads.
        folder: where it is started, and what its size is measured of.
        bare: the words that start its interpreter and end it, what a start costs at least.
        video: folders of packages that only videos need, as patterns.
    """

    name: str
    driver: tuple[str, ...]
    folder: Path
    bare: tuple[str, ...]
    video: tuple[str, ...] = ()

    def megabytes(self, *, video: bool) -> float:
        """Megabytes (10^6) installed, without compiled Python files, which grow with use.

        Without `video` what only videos need does not count.
        """
        parts = [self.folder / "lib", self.folder / "node_modules"]
        left_out = () if video else self.video
        return sum(
            path.lstat().st_size / 1e6
            for part in parts
            for path in part.rglob("*")
            if path.suffix != ".pyc"
            and not path.is_dir()
            and not any(fnmatch(name, wanted) for name in path.parts for wanted in left_out)
        )


def _run(*words: str, folder: Path) -> None:
    """Raises RuntimeError with the last line of what a command said."""
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"{' '.join(words[:4])} ...: {lines[-1]}")


def _python(folder: Path, *steps: tuple[str, ...], always: bool = False) -> Path:
    """The interpreter of an environment in which each step was installed."""
    python = folder / "bin" / "python"
    if always or not (folder / READY).is_file():
        if not python.is_file():
            _run(sys.executable, "-m", "venv", str(folder), folder=HERE)
        for words in steps:
            _run(str(python), "-m", "pip", "install", "--quiet", *words, folder=HERE)
        (folder / READY).touch()
    return python


def _of_python(name: str, python: Path, *video: str) -> Tool:
    driver = HERE / "drivers" / f"{name}_driver.py"
    folder = python.parent.parent
    return Tool(name, (str(python), str(driver)), folder, (str(python), "-c", "pass"), video)


def fervor(folder: Path) -> Tool:
    """This working tree, built and installed anew, with what reads videos."""
    source = f"fervor[video] @ {REPOSITORY.as_uri()}"
    constraints = ("-c", str(REPOSITORY / "constraints.txt"))
    fresh = ("--force-reinstall", "--no-deps", str(REPOSITORY))
    python = _python(folder, (*constraints, source), fresh, always=True)
    return _of_python("fervor", python, *FERVOR_VIDEO)


def fervor_fast(folder: Path) -> Tool:
    """The same installation: eight bits, and no faces smaller than fer looks for."""
    return _of_python(FAST, folder.with_name("fervor") / "bin" / "python", *FERVOR_VIDEO)


def fer(folder: Path) -> Tool:
    """fer of PyPI."""
    return _of_python("fer", _python(folder, *FER))


def face_api(folder: Path) -> Tool:
    """@vladmandic/face-api on Node."""
    node = shutil.which("node")
    if node is None:
        raise RuntimeError("there is no node")
    if not (folder / READY).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        npm = ("npm", "install", "--no-audit", "--no-fund", "--prefix", ".", "--save-exact")
        _run(*npm, *FACE_API, folder=folder)
        (folder / READY).touch()
    driver = str(HERE / "drivers" / "face_api_driver.cjs")
    return Tool("face-api", (node, driver), folder, (node, "-e", "0"))


TOOLS = {"fervor": fervor, FAST: fervor_fast, "fer": fer, "face-api": face_api}


def install(folder: Path, names: list[str]) -> tuple[dict[str, Tool], dict[str, str]]:
    """The tools that could be installed, and why the others could not."""
    ready, missing = {}, {}
    for name in names:
        try:
            ready[name] = TOOLS[name]((folder / name).resolve())
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            missing[name] = str(error)
    return ready, missing
