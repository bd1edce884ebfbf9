"""Commands for those who have pictures and a model."""

import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fervor import extras
from fervor.commands.notes import notes
from fervor.errors import UsageError
from fervor.exitcodes import DONE, FOUND


if TYPE_CHECKING:
    from fervor.inference import Predictor
    from fervor.points import PointFinder


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
    smooth: bool = False,
    landmarks: bool = False,
    neutral: str = "",
    batch_size: int = 8,
    threads: int = 0,
    abstain: float = 0.0,
    cluster: bool = False,
    workers: int = 0,
    precision: Literal["fp32", "int8", "auto"] = "fp32",
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
        smallest_face: longer side in pixels of the smallest face that counts; large pictures are
            then scaled to show it, and small ones run faster; 0 for faces of any size.
        smooth: add columns smooth_<class> to the output, smoothed over each track.
        landmarks: add a column of each face's 68 points (iBUG's order, pixels) to the output,
            and draw them with annotate.
        neutral: correct by how a face looks at rest: a picture of it, or auto to learn it.
        batch_size: pictures taken together, four at most on each of several cores, and faces
            classified together at most; the answers do not depend on it.
        threads: cores to use; 0 for all, with cluster one.
        abstain: a face whose highest probability is below gets the label "uncertain".
        cluster: predict over Ray Data, on the cluster that the environment variable RAY_ADDRESS
            names, without it on one that is started on this machine.
        workers: of the cluster, each with a model of its own; 0 for as many as it has room for.
        precision: what the model computes in: fp32; int8, where its folder has such a graph; auto,
            int8 where that is measured to be faster on this machine.
        device: cpu, or cuda where onnxruntime-gpu is installed.
        offline: never touch the network, whatever the model would like to fetch.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from fervor import media
    from fervor import predict as work
    from fervor.inference import Predictor

    span = media.Span(every, start, end)
    if cluster:
        _check_cluster(workers, annotate, precision, device)
        place = extras.load("fervor.cluster", extra="cluster")
        threads = threads or 1
        sources = place.find(inputs, offline=offline)
    elif workers:
        raise UsageError(f"workers={workers}: needs --cluster")
    else:
        sources = media.find(inputs)
    outputs = work.Outputs(output, annotate, smooth=smooth, sources=sources, landmarks=landmarks)
    options: dict[str, Any] = {
        "model": model or None,
        "labels": _listed(labels),
        "faces": faces,
        "threads": threads,
        "batch_size": batch_size,
        "abstain": abstain,
        "whole_every": whole_every,
        "smallest_face": smallest_face,
        "neutral": neutral or None,
        "precision": precision,
        "device": device,
    }
    with notes("fervor.eightbits"):
        predictor = Predictor(**options)
    with ExitStack() as stack:
        if cluster:
            count = stack.enter_context(place.joined(workers, threads))
            found = place.answers(sources, options, workers=count, landmarks=landmarks)
        else:
            finder = _point_finder(threads, faces, device) if landmarks else None
            found = work.answers(predictor, sources, span=span, finder=finder)
        counts = work.run(found, predictor.labels, sources, outputs)
    if output:
        print(work.summary(output, counts))
    return FOUND if strict and counts["no_face"] + counts["error"] else DONE


def _check_cluster(workers: int, annotate: str, precision: str, device: str) -> None:
    """What --cluster cannot do, before anything is started."""
    if workers < 0:
        raise UsageError(f"workers={workers}: expected 1 or more, or 0 for all there is room for")
    if annotate:
        raise UsageError(f"annotate={annotate}: --cluster writes rows alone; draw without it")
    if precision == "auto":
        raise UsageError("precision=auto: workers could differ; give --cluster fp32 or int8")
    if device != "cpu":
        raise UsageError(f"device={device}: --cluster runs on processors; leave one of them out")


def _listed(labels: str) -> list[str] | None:
    """What an option names, between semicolons where it has any, else commas; None where empty."""
    return labels.split(";" if ";" in labels else ",") if labels.strip() else None


def explain(
    inputs: list[str],
    *,
    model: str = "",
    labels: str = "",
    faces: Literal["all", "largest", "precropped"] = "all",
    output: str = "explanations",
    top: int = 3,
    threads: int = 0,
    strict: bool = False,
) -> int:
    """Draw what speaks for the expression that each face shows: places of the face, and cues.

    Args:
        inputs: pictures, or folders that are searched for them.
        model: a model folder, or embedded or vlm, which fervor ships; empty for embedded, with
            labels for vlm.
        labels: words or sentences to choose of instead of the model's classes, separated by commas,
            or by semicolons where they hold commas.
        faces: all, the largest of each picture, or precropped: the picture is one face.
        output: folder of the drawings, one for each face, and of their rows.
        top: heat maps in a drawing, those of the most probable expressions.
        threads: threads of each network; 0 for all cores.
        strict: exit with 1 where a picture cannot be read or shows no face.
    """
    from fervor.explaining import ROWS, run
    from fervor.inference import Predictor

    predictor = Predictor(model or None, labels=_listed(labels), faces=faces, threads=threads)
    counts = run(predictor, inputs, Path(output), top=top)
    print(f"{counts['ok']} faces drawn in {output}, their rows in {Path(output) / ROWS}")
    return FOUND if strict and counts["no_face"] + counts["error"] else DONE


def _point_finder(threads: int, faces: str, device: str) -> "PointFinder":
    from fervor.points import PointFinder

    return PointFinder(threads, device=device, whole=faces == "precropped")


def describe(
    *,
    labels: str,
    endpoint: str,
    model: str,
    output: str = "descriptions.json",
    seed: int = 0,
    timeout: float = 60.0,
    tries: int = 4,
    cache: str = "runs/cache/describe",
) -> int:
    """Ask a language model what distinguishes each expression, for options.descriptions of mpa.

    Args:
        labels: names of the expressions, separated by commas.
        endpoint: root of an OpenAI-compatible interface, such as http://localhost:8080/v1; its key,
            where it needs one, is taken from the environment variable FERVOR_API_KEY.
        model: the model's name there.
        output: the file of descriptions that is written.
        seed: sent with each question, for endpoints that heed it.
        timeout: seconds to wait for an answer.
        tries: how often a question is asked before it is given up.
        cache: folder of the answers so far; a question that it holds is not asked again.
    """
    from fervor.describe import Endpoint
    from fervor.describe import describe as ask

    where = Endpoint(endpoint, model, seed=seed, timeout=timeout, tries=tries)
    texts = ask(labels.split(","), where, output=Path(output), cache=Path(cache))
    for label, text in texts.items():
        print(f"{label}: {text}")
    print(f"written to {output}")
    return DONE


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str = "",
    labels: str = "",
    token: str = "",
    hosts: str = "",
    threads: int = 0,
    precision: Literal["fp32", "int8", "auto"] = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    max_bytes: int = 20_000_000,
    max_pixels: int = 64_000_000,
    max_faces: int = 100,
    max_files: int = 16,
    max_requests: int = 64,
    client_requests: int = 32,
    max_upload_seconds: float = 60.0,
    max_video_bytes: int = 256_000_000,
    max_video_seconds: float = 600.0,
) -> int:
    """Answer over HTTP, with a web page for pictures, a webcam and videos.

    Args:
        host: address to listen at; others than this machine's own need a token.
        port: port to listen at; 0 for any that is free.
        model: a model folder, or embedded or vlm, which fervor ships; empty for embedded, with
            labels for vlm.
        labels: words or sentences to choose of instead of the model's classes, separated by commas,
            or by semicolons where they hold commas.
        token: what clients must send; better in the environment variable FERVOR_TOKEN, because
            other users of this machine see the words of a command.
        hosts: names, separated by commas, under which a proxy makes the server known.
        threads: cores to use; 0 for all.
        precision: what the model computes in: fp32; int8, where its folder has such a graph; auto,
            int8 where that is measured to be faster on this machine.
        device: cpu, or cuda where onnxruntime-gpu is installed.
        max_bytes: of one picture's file.
        max_pixels: of a picture.
        max_faces: in a picture.
        max_files: pictures in a request.
        max_requests: received and answered at the same time.
        client_requests: of those, from one address; behind a proxy, all come from the proxy's.
        max_upload_seconds: in which a request must have been received.
        max_video_bytes: of a video's file.
        max_video_seconds: of a video.
    """
    work = extras.load("fervor.serve", extra="serve")
    limits = work.Limits(
        file_bytes=max_bytes,
        request_bytes=max(64_000_000, max_bytes),
        files=max_files,
        pixels=max_pixels,
        faces=max_faces,
        requests=max_requests,
        client_requests=client_requests,
        upload_seconds=max_upload_seconds,
        held_bytes=max(512_000_000, max_bytes, max_video_bytes),
        video_bytes=max_video_bytes,
        video_seconds=max_video_seconds,
    )
    token = token or os.environ.get("FERVOR_TOKEN", "")
    place = work.Place(host, port, token, hosts.split(","))

    def announce(address: str, predictor: "Predictor") -> None:
        name = model or ("vlm" if labels else "embedded")
        print(f"fervor serves {address} with the model {name}; Ctrl-C stops it.", flush=True)
        if labels:
            print(f"It chooses of: {'; '.join(predictor.labels)}.", flush=True)
        print(
            "Pictures are answered in memory, on this machine: none is stored, logged or sent on.\n"
            "An answer is the expression shown, not what a person feels.",
            flush=True,
        )

    options = {
        "model": model or None,
        "labels": _listed(labels),
        "threads": threads,
        "precision": precision,
        "device": device,
    }
    with notes("fervor.eightbits"):
        work.serve(place, options, limits=limits, announce=announce)
    return DONE


def models() -> int:
    """List the weights that fervor ships, and what a checkpoint needs."""
    from fervor import inventory

    weights = inventory.shipped()
    for weight in weights:
        print(f"{weight.name}\n  licence     {weight.licence}")
        print(f"  data terms  {weight.data_terms}")
        if weight.needs:
            print(f"  made of     {weight.needs}")
        verified = "verified" if weight.intact else "DIFFERS: reinstall fervor"
        print(f"  sha256      {weight.sha256}  {verified}")
    print(
        "\nWhat a checkpoint needs\n"
        "  to predict                          model.onnx and model.json (from fervor export)\n"
        "  to evaluate, export and start from  weights.safetensors and model.json; "
        'pip install "fervor[train]"\n'
        "  its text tower                      nothing: its class vectors are inside\n"
        "  frozen towers (method mpa)          found by name and checksum, see model.json; an "
        "export holds them\n"
        "\nWithout what was learned from research data\n"
        "  none of these files: each learned, at least in part, from data that was given for "
        "research\n"
        "  your own pictures alone             fervor train --method classifier --data.name folder "
        "--encoder.weights random\n"
        "                                      on pictures of one face each; then predict --faces "
        "precropped"
    )
    return DONE if all(weight.intact for weight in weights) else FOUND
