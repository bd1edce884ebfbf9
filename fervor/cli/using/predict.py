"""The command `fervor predict`."""

import math
import os
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from fervor.cli.using import listed
from fervor.errors import DONE, PROBLEM, UsageError
from fervor.plugins import missing_extra


if TYPE_CHECKING:
    from fervor.faces.landmarks import PointFinder
    from fervor.io.frame import Span


def predict(
    inputs: list[str],
    *,
    model: str = "",
    labels: str = "",
    faces: Literal["all", "largest", "precropped"] = "all",
    output: str = "",
    annotate: str = "",
    every: int = 1,
    start: float = 0.0,
    end: float = math.inf,
    whole_every: int = 10,
    smallest_face: float = 0.0,
    region: str = "",
    boxes: str = "",
    summary: str = "",
    smooth: bool = False,
    landmarks: bool = False,
    covered: bool = False,
    neutral: str = "",
    batch_size: int = 8,
    threads: int = 0,
    abstain: float | Literal["auto"] = 0.0,
    prior: Literal["natural", "balanced"] = "natural",
    cluster: bool = False,
    workers: int = 0,
    precision: Literal["fp32", "int8", "auto"] = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    offline: bool = False,
    strict: bool = False,
) -> int:
    """Recognise the expression that each face shows, in pictures, folders, videos or a webcam.

    Args:
        inputs: pictures, videos, folders, which are searched for both, or webcam:0; with cluster
            addresses such as s3://bucket/folder too.
        model: a model folder, or embedded or vlm, which fervor ships; empty for embedded, with
            labels for vlm.
        labels: words or sentences to choose of instead of the model's classes, separated by commas,
            or by semicolons where they hold commas.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        output: a file of rows that ends in .jsonl, .csv or .parquet; without it a readable table.
        annotate: a folder for the pictures and videos with what was found drawn into them.
        every: of a video, take every N-th frame.
        start: of a video, seconds from its start to the first frame that is taken.
        end: of a video or webcam, seconds at which to stop.
        whole_every: of a video, look for new faces in the whole frame at every N-th.
        smallest_face: longer side in pixels of the smallest face that is looked for, 16 at the
            least; smaller ones are left out; 0 looks for every face of 40 px, and takes smaller
            ones where they are seen. Larger numbers run faster.
        region: look for faces in this part of each picture alone: x,y,width,height in pixels.
        boxes: a file (.csv or .jsonl) of the faces: source, x, y, width, height in pixels, for
            videos frame too; none is looked for. The rows of an earlier run are such a file.
        summary: a file (.csv or .json) of how long each face of a video, and all of it, showed each
            expression.
        smooth: add columns smooth_<class> to the output, smoothed over each track.
        landmarks: add a column of each face's 68 points (iBUG's order, pixels) to the output,
            and draw them with annotate.
        covered: add a column of the parts of each face that seem covered (eyes, mouth), because
            its answer is then in doubt.
        neutral: correct by how a face looks at rest: a picture of it, or auto to learn it.
        batch_size: pictures taken together, four at most on each of several cores, and faces
            classified together at most; the answers do not depend on it.
        threads: cores to use; 0 for all, with cluster one.
        abstain: a face whose highest probability is below gets the label "uncertain"; auto takes
            the threshold that is stored with the model.
        prior: natural, the shares of the classes that the model was trained on; balanced answers
            rare expressions more often.
        cluster: predict over Ray Data, on the cluster that the environment variable RAY_ADDRESS
            names, without it on one that is started on this machine.
        workers: of the cluster, each with a model of its own; 0 for as many as it has room for.
        precision: what the model computes in: fp32; int8, where its folder has such a graph; auto,
            int8 where that graph answers nearly every face alike and this processor has
            instructions for it (fervor models says), with cluster fp32.
        device: cpu, or cuda where onnxruntime-gpu is installed.
        offline: never touch the network, whatever the model would like to fetch.
        strict: exit with 1 where a picture cannot be read or shows no face, or start and end leave
            no frame of a video.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from fervor.artifacts.model_info import DESCRIPTION
    from fervor.faces.places import check_unused, parse_region
    from fervor.inference.predictor import Predictor
    from fervor.io import sources as media
    from fervor.outputs import writer as work

    span = media.Span(every, start, end)
    skipped: Counter[str] = Counter()
    if cluster:
        _check_cluster(workers, annotate, summary, span, device)
        with missing_extra("cluster"):
            from fervor.inference import cluster as place
        threads = threads or 1
        sources = place.find(inputs, offline=offline, skipped=skipped)
    elif workers:
        raise UsageError(f"workers={workers}: needs --cluster")
    else:
        sources = media.find(inputs, skipped=skipped)
    if not output:
        shown = {"landmarks": landmarks and not annotate, "smooth": smooth and not summary}
        check_unused("the terminal's table has no such columns", **shown)
    outputs = work.Outputs(
        output,
        annotate,
        summary=summary,
        smooth=smooth,
        sources=sources,
        landmarks=landmarks,
        covered=covered,
        inputs=[boxes, neutral, model and os.path.join(model, DESCRIPTION)],
    )
    options: dict[str, Any] = {
        "model": model or None,
        "labels": listed(labels),
        "faces": faces,
        "threads": threads,
        "batch_size": batch_size,
        "abstain": abstain,
        "prior": prior,
        "whole_every": whole_every,
        "smallest_face": smallest_face,
        "region": parse_region(region),
        "boxes": boxes or None,
        "neutral": neutral or None,
        # Processors of a cluster may differ, and its answers must not.
        "precision": "fp32" if cluster and precision == "auto" else precision,
        "device": device,
    }
    predictor = Predictor(**options)
    if covered:
        predictor.check_tells_covers()
    if predictor.boxes is not None:
        predictor.boxes.check_sources(sources)
    with ExitStack() as stack:
        if cluster:
            count = stack.enter_context(place.joined(workers, threads))
            predictions = place.answers(sources, options, workers=count, landmarks=landmarks)
        else:
            finder = _point_finder(predictor.threads, faces, device) if landmarks else None
            predictions = work.answers(predictor, sources, span=span, finder=finder)
        counts = work.run(predictions, predictor.labels, sources, outputs)
    if output:
        print(work.summary(output, counts, predictor.smallest_side, skipped))
    elif skipped:
        print(media.skipped_files(skipped), file=sys.stderr)
    problems = counts["no_face"] + counts["error"] + counts["without_frames"]
    return PROBLEM if strict and problems else DONE


def _check_cluster(workers: int, annotate: str, summary: str, span: "Span", device: str) -> None:
    """What --cluster cannot do, before anything is started."""
    if workers < 0:
        raise UsageError(f"workers={workers}: expected 1 or more, or 0 for all there is room for")
    if annotate:
        raise UsageError(f"annotate={annotate}: --cluster writes rows alone; draw without it")
    if summary:
        raise UsageError(f"summary={summary}: --cluster takes no videos; summarise without it")
    for name, usual in (("every", 1), ("start", 0.0), ("end", math.inf)):
        if (value := getattr(span, name)) != usual:
            raise UsageError(f"{name}={value}: --cluster takes no videos; leave one of them out")
    if device != "cpu":
        raise UsageError(f"device={device}: --cluster runs on processors; leave one of them out")


def _point_finder(threads: int, faces: str, device: str) -> "PointFinder":
    from fervor.faces.landmarks import PointFinder

    return PointFinder(threads, device=device, whole=faces == "precropped")
