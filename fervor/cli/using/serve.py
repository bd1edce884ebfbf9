"""The command `fervor serve`."""

import os
import sys
from typing import TYPE_CHECKING, Literal

from fervor.cli.using import listed
from fervor.errors import DONE, UsageError
from fervor.plugins import missing_extra


if TYPE_CHECKING:
    from fervor.inference.predictor import Predictor


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str = "",
    labels: str = "",
    token: str = "",
    hosts: str = "",
    threads: int = 0,
    abstain: float | Literal["auto"] = 0.0,
    prior: Literal["natural", "balanced"] = "natural",
    precision: Literal["fp32", "int8", "auto"] = "auto",
    smallest_face: float = 0.0,
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
    max_video_frames: int = 18_000,
    trusted_proxy: str = "",
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
        abstain: as in predict; the page and its clients then read "uncertain".
        prior: natural or balanced, as in predict.
        precision: what the model computes in, as in predict.
        smallest_face: longer side in pixels of the smallest face that is looked for, as in predict.
        device: cpu, or cuda where onnxruntime-gpu is installed.
        max_bytes: of one picture's file.
        max_pixels: of a picture, and of a video's frame.
        max_faces: in a picture.
        max_files: pictures in a request.
        max_requests: that wait or are answered at the same time.
        client_requests: from one address that are received, wait or are answered at the same time.
        max_upload_seconds: in which a request must have been received.
        max_video_bytes: of a video's file.
        max_video_seconds: of a video.
        max_video_frames: of a video, looked at or not.
        trusted_proxy: address of the proxy through which clients ask; its X-Forwarded-For header
            says whose share a request takes, that of others is ignored.
    """
    with missing_extra("serve"):
        from fervor.server import bind as work
    _check_limits(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_faces=max_faces,
        max_files=max_files,
        max_requests=max_requests,
        client_requests=client_requests,
        max_upload_seconds=max_upload_seconds,
        max_video_bytes=max_video_bytes,
        max_video_seconds=max_video_seconds,
        max_video_frames=max_video_frames,
    )
    largest = max(64_000_000, max_bytes, max_video_bytes)
    limits = work.Limits(
        file_bytes=max_bytes,
        request_bytes=max(64_000_000, max_bytes),
        files=max_files,
        pixels=max_pixels,
        faces=max_faces,
        requests=max_requests,
        client_requests=client_requests,
        upload_seconds=max_upload_seconds,
        request_pixels=max(200_000_000, max_pixels),
        held_bytes=max(512_000_000, 2 * largest),
        client_bytes=max(256_000_000, largest),
        video_bytes=max_video_bytes,
        video_seconds=max_video_seconds,
        video_frames=max_video_frames,
        client_connections=max(100, 2 * client_requests),
    )
    token = token or os.environ.get("FERVOR_TOKEN", "")
    place = work.Place(host, port, token, hosts.split(","), trusted_proxy)
    if (trusted_proxy or hosts) and not token:
        print(
            "fervor serve: without a token everybody is answered whom the proxy lets through; "
            "FERVOR_TOKEN sets one",
            file=sys.stderr,
        )

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
        "labels": listed(labels),
        "threads": threads,
        "abstain": abstain,
        "prior": prior,
        "precision": precision,
        "smallest_face": smallest_face,
        "device": device,
    }
    work.serve(place, options, limits=limits, announce=announce)
    return DONE


def _check_limits(**given: float) -> None:
    """Raises UsageError where one is below 1, by the name that it is given by."""
    for name, value in given.items():
        if not value >= 1:
            raise UsageError(f"--{name} {value:g}: expected 1 or more")
