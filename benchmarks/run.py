"""Measure fervor beside tools of the same kind that run from their packages alone.

    python benchmarks/run.py --root FERPLUS --output benchmarks/results/NAME.json

Speed (a new process, warm, part by part, one and two threads), memory, size on disk, and accuracy
on FERPlus's test faces. Each tool is installed below --peers at first (network: the package
indexes), and runs offline. A tool that cannot be installed or cannot do a job is "not measured",
with the reason. Writes the result file, and its tables into docs/speed.md and benchmarks/REPORT.md.
--photos FOLDER times your own pictures, --own FOLDER all of another folder besides, warm. What the
tools are and how they are called stands in peers.py and drivers/.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accuracy import measure as measure_accuracy
from measures import BASE, Measure, Photographs, of_commands, of_drivers, of_processes
from peers import TOOLS, Tool, install
from PIL import Image
from processes import Driver, Failed
from scenes import write_photos, write_video
from table import write_pages

from fervor.data.datasets import load
from fervor.io import provenance, sources


def say(what: str) -> None:
    """Where the run is, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def origin(started: str, load_before: float) -> dict[str, Any]:
    """Where and when a benchmark ran, with the machine's load before and after it."""
    return {
        "schema": 1,
        "date": started,
        "commit": provenance.commit(),
        "machine": machine(),
        "load": {"before": load_before, "after": os.getloadavg()[0]},
    }


def machine() -> dict[str, Any]:
    """What the times depend on."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((line.split(": ")[1] for line in lines if "model name" in line), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def versions(tools: dict[str, Tool]) -> dict[str, Any]:
    """Of each tool and of what runs it."""
    found = {}
    for name, tool in tools.items():
        with Driver(tool, 1) as driver:
            found[name] = driver.ask("versions")["value"]
    return found


def own_photographs(folder: str) -> Photographs | None:
    """All of a folder, called by their number and size."""
    if not folder:
        return None
    paths, sizes = sources.find([folder]), set()
    for path in paths:
        with Image.open(path) as image:
            sizes.add(image.size)
    size = " of {} x {}".format(*sizes.pop()) if len(sizes) == 1 else ""
    return Photographs(f"{len(paths)} photographs{size}", [str(path) for path in paths])


def timed(
    given: argparse.Namespace, tools: dict[str, Tool], folder: Path, own: Photographs | None
) -> list[Measure]:
    """Every measure of speed."""
    if given.photos:
        photos = sources.find([given.photos])[: given.count]
    else:
        photos = write_photos(folder / "photos", given.count)
    video = (write_video(folder / "film.mp4", given.frames), given.frames)
    faces = [sample.path for sample in load("ferplus", given.root, "test", protocol="majority7")]
    say("commands")
    measures = of_commands(tools, photos[0], given.processes)
    for threads in given.threads:
        say(f"new processes, {threads} thread(s)")
        measures += of_processes(tools, photos, threads, given.processes)
        say(f"warm, {threads} thread(s)")
        measures += of_drivers(
            tools, photos[0], video, faces, own, threads=threads, count=given.rounds
        )
    return measures


def with_a_face(tools: dict[str, Tool], own: Photographs) -> dict[str, int | None]:
    """In how many of the photographs each tool finds one; None where it fails."""
    found: dict[str, int | None] = {}
    for name, tool in tools.items():
        try:
            with Driver(tool, 1) as driver:
                faces = driver.ask("photos", paths=own.paths)["value"]
        except Failed:
            found[name] = None
        else:
            found[name] = sum(count > 0 for count in faces)
    return found


def described(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole result."""
    load_before, started = os.getloadavg(), time.strftime("%Y-%m-%d")
    say("installing")
    tools, missing = install(Path(given.peers), given.tools)
    if BASE not in tools:
        raise Failed(f"fervor cannot be installed: {missing[BASE]}")
    for name, reason in missing.items():
        say(f"{name} is not measured: {reason}")
    own = own_photographs(given.own)
    measures = timed(given, tools, folder, own)
    say("accuracy")
    accuracy = measure_accuracy(
        tools,
        given.root,
        folder / "faces",
        given=given.given,
        found=given.found,
        threads=max(given.threads),
    )
    return {
        **origin(started, load_before[0]),
        "photos": "given"
        if given.photos
        else "composed of examples/astronaut.jpg (benchmarks/scenes.py)",
        "versions": versions(tools),
        "not_installed": missing,
        "megabytes": {
            what: {name: tool.megabytes(video=video) for name, tool in tools.items()}
            for what, video in (("pictures", False), ("pictures and videos", True))
        },
        "measures": [measure.described() for measure in measures],
        "accuracy": accuracy,
        "own": own and {"what": own.name, "with_a_face": with_a_face(tools, own)},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("--root", required=True, help="FERPlus folder")
    add("--output", type=Path, required=True, help="result file, .json")
    add("--no_tables", action="store_true", help="leave the pages as they are")
    add("--peers", default="runs/peers", help="folder of the tools' environments")
    add("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    add("--photos", default="", help="folder of photographs in place of composed ones")
    add("--own", default="", help="folder of photographs that are timed warm besides, all of them")
    add("--count", type=int, default=100, help="photographs of the folder, 1 to 1000")
    add("--frames", type=int, default=90, help="of the film")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=5, help="of warm measures")
    add("--processes", type=int, default=3, help="rounds of new processes")
    add("--given", type=int, default=0, help="test faces that are given; 0 for all 3,122")
    add("--found", type=int, default=500, help="test faces to be found; 0 for all")
    given = parser.parse_args()
    if not 1 <= given.count <= 1000 or min(given.rounds, given.processes, given.frames) < 1:
        parser.error("expected 1 to 1000 photographs, and at least one round and one frame")
    # drivers are started in the folders of their tools
    given.root = str(Path(given.root).resolve())
    given.photos, given.own = (
        str(Path(folder).resolve()) if folder else "" for folder in (given.photos, given.own)
    )
    if BASE not in given.tools:
        parser.error(f"--tools lacks {BASE}, to which ratios are taken")
    return given


def main() -> int:
    """Measure, write the result and the pages."""
    given = arguments()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = described(given, Path(folder))
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
    provenance.write_text(given.output, json.dumps(result, indent=1) + "\n")
    say(f"written to {given.output}")
    if not given.no_tables:
        write_pages(result, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
