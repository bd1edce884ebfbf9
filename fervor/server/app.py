"""The endpoints, and the page beside them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles

from fervor import __version__
from fervor.errors import InputError, ModelError, UsageError, counted
from fervor.inference.classifier import Prior
from fervor.inference.prediction import Prediction, failed, row_of, without_face
from fervor.inference.predictor import Predictor
from fervor.io.frame import Frame
from fervor.io.image_header import read_header
from fervor.server import schema, uploads, video
from fervor.server.batching import WAIT, Batcher, Explain, Job
from fervor.server.description import describe
from fervor.server.guard import CLIENT, FAULT, Access, Guard
from fervor.server.limits import Limits, Quotas, Refused
from fervor.server.metrics import CONTENT_TYPE, Metrics
from fervor.server.uploads import Disconnected, Upload, UploadLimits, while_connected


__all__ = ["application"]

STATIC = Path(__file__).parent / "static"
OPEN = ("/", "/docs", "/responsible-use", "/openapi.json", "/favicon.ico", "/v1/health")
SIZES = "Fervor-Sizes"
"""The header with the pixels that boxes count in: a browser may show another size."""
EVERY = 1_000
"""Of a video, the most frames from one that is looked at to the next."""


class Service:
    """What answers requests: a model, the line before it, and what all requests share."""

    def __init__(self, predictor: Predictor, limits: Limits, *, wait: float = WAIT) -> None:
        self.predictor, self.limits = predictor, limits
        self.metrics = Metrics()
        self.batcher = Batcher(predictor, limits, self.metrics, wait=wait)
        self.requests = Quotas("request", most=0, each=limits.client_requests)
        self.held = Quotas("byte", most=limits.held_bytes, each=limits.client_bytes)
        self.videos = Quotas("video", most=limits.videos, each=1, retry=10)
        self.description = describe(predictor, limits)
        self._others = {
            prior: predictor.at(prior)
            for prior in self.description["priors"]
            if prior != predictor.prior
        }
        self.metrics.gauge(
            "fervor_requests_in_flight", "Requests under way.", lambda: self.requests.taken
        )
        self.metrics.gauge(
            "fervor_pictures_waiting", "Pictures before the model.", lambda: self.batcher.waiting
        )
        self.metrics.gauge(
            "fervor_uploaded_bytes", "Bytes of uploads in memory.", lambda: self.held.taken
        )

    def close(self) -> None:
        """Refuse what waits, and end threads and processes."""
        self.batcher.close()

    def at(self, prior: Prior | None) -> Predictor:
        """The model at an operating point; None for the server's own.

        Raises:
            Refused: the model stores no others.
        """
        if prior is None or prior == self.predictor.prior:
            return self.predictor
        if prior not in self.description["priors"]:
            reason = f"prior {prior}: the model of this server answers at one operating point"
            raise Refused(422, "invalid_parameter", reason)
        return self._others[prior]

    async def predict(
        self, request: Request, covered: bool = False, prior: Prior | None = None
    ) -> Response:
        """Name the expression that each face of one or more pictures shows.

        One list of rows for each file, in their order: a row for each face, largest first; one row
        with the status `no_face` or `error` for a picture without a face or one that cannot be
        read. The rows are those of `fervor predict`; `covered=true` adds what seems covered, and
        the header `Fervor-Sizes: 640x480, ...` with the size of each upright picture (0x0 of one
        that cannot be read). `prior` names the operating point, natural or balanced, where it is
        not the server's.
        """
        predictor = self.at(prior)
        job = await self._answered(request, self.limits.files, predictor=predictor)
        answers: list[list[Prediction]] = job.future.result()
        self._check_faces(answers)
        labels = self.predictor.labels
        sizes = ", ".join(f"{width}x{height}" for _, (width, height) in sorted(job.sizes.items()))
        return JSONResponse(
            {
                "results": [
                    [row_of(face, labels, covered=covered) for face in answer] for answer in answers
                ]
            },
            headers={SIZES: sizes} if covered else None,
        )

    async def explain(
        self,
        request: Request,
        face: Annotated[int, Query(ge=0)] = 0,
        prior: Prior | None = None,
    ) -> Response:
        """Say what speaks for and against the answer of each face in one picture.

        The rows of the picture, with more fields: `heat` has a grid of rows for each class, above
        0 where the picture speaks for it; `square` is the map [2 3] from that grid, taken as a
        square of side 1, to the picture's pixels; `cues_for` and `cues_against` are described cues
        with their scores; `covered` names parts of the face that seem covered. All are null where
        there is no face. Heat by occlusion, which points best, takes a pass of the model for each
        cell: it is made for one face, number `face`; the others have heat by similarity, as
        `heat_by` says. `prior` is as in /v1/predict.
        """
        if not self.description["explains"]:
            raise Refused(501, "no_explanations", "the model of this server cannot be explained")
        predictor = self.at(prior)
        explained = partial(self._explained, predictor, face=face)
        job = await self._answered(request, 1, predictor=predictor, explain=explained)
        return JSONResponse({"faces": job.future.result()})

    async def _answered(
        self,
        request: Request,
        files: int,
        *,
        predictor: Predictor,
        explain: Explain | None = None,
    ) -> Job:
        """The pictures of a request with what the model says of them; nobody waits for it any more
        where the client has left."""
        client = request.scope[CLIENT]
        pictures = await self._received(request, files)
        try:
            pixels = await asyncio.to_thread(self._pixels, pictures)
            job = Job(client, pictures, pixels, explain, predictor)
            self.batcher.submit(job)
            try:
                await while_connected(request, asyncio.wrap_future(job.future))
                return job
            finally:
                self.batcher.cancel(job)
        finally:
            uploads.give_back(pictures, self.held, client)

    def _explained(self, predictor: Predictor, frame: Frame, *, face: int) -> list[dict[str, Any]]:
        labels = predictor.labels
        try:
            explained = predictor.explain(frame, face=face) if frame.error is None else []
        except UsageError as error:
            raise Refused(422, "invalid_parameter", str(error)) from None
        except ModelError as error:
            explained, answers = [], [failed(frame, predictor.name, str(error))]
        else:
            answers = [one.prediction for one in explained]
            answers = answers or [without_face(frame, predictor.name)]
        self.metrics.picture(answers)
        self._check_faces([answers])
        reasons = [one.row() for one in explained] or [dict.fromkeys(schema.EXPLAINED)]
        return [
            row_of(answer, labels) | reason for answer, reason in zip(answers, reasons, strict=True)
        ]

    async def video(
        self,
        request: Request,
        every: Annotated[int, Query(ge=1, le=EVERY)] = 1,
        covered: bool = False,
        prior: Prior | None = None,
    ) -> Response:
        """Name the expressions in a video, each frame's rows as soon as they are known.

        JSON Lines: the rows of `fervor predict --output rows.jsonl`, faces followed as tracks.
        `every` takes every N-th frame; `covered=true` adds what seems covered; `prior` is as in
        /v1/predict.
        """
        client, predictor = request.scope[CLIENT], self.at(prior)
        (clip,) = await self._received(request, 1, video_limits=True)
        try:
            self.videos.take(client)
        except Refused:
            uploads.give_back([clip], self.held, client)
            raise
        decoder = video.decoder(clip)

        def done() -> None:
            decoder.close()
            uploads.give_back([clip], self.held, client)
            self.videos.give(client)

        try:
            await asyncio.to_thread(video.check, clip, decoder, self.limits)
            rows = video.lines(
                clip,
                decoder,
                predictor,
                self.limits,
                self.metrics,
                every=every,
                covered=covered,
            )
            return video.VideoResponse(rows, done)
        except BaseException:
            done()
            raise

    async def health(self) -> dict[str, str]:
        """Whether the server answers, and its version."""
        return {"status": "ok", "version": __version__}

    async def model(self) -> dict[str, Any]:
        """The model's labels, licence and card, and the server's limits."""
        return self.description

    async def numbers(self) -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _received(
        self, request: Request, files: int, *, video_limits: bool = False
    ) -> list[Upload]:
        limits = self.limits
        size = limits.video_bytes if video_limits else limits.file_bytes
        whole = limits.video_bytes if video_limits else limits.request_bytes
        most = UploadLimits(files, size, whole, limits.upload_seconds)
        memory = video.memory if video_limits else uploads.BytesIO
        return await uploads.receive(request, most, self.held, request.scope[CLIENT], memory=memory)

    def _pixels(self, files: Sequence[Upload]) -> list[int]:
        """Of each picture, by its header; 0 of what is none, which decoding says."""
        pixels = []
        for upload in files:
            try:
                header = read_header(upload.file)
            except InputError:
                header = None
            pixels.append(0 if header is None else header.pixels)
            if header is not None and header.pixels > self.limits.pixels:
                raise Refused(
                    413,
                    "too_many_pixels",
                    f"{upload.name}: {header.width} x {header.height} pixels, "
                    f"expected at most {self.limits.pixels:,}",
                )
        if sum(pixels) > self.limits.request_pixels:
            raise Refused(
                413,
                "too_many_pixels",
                f"{counted(sum(pixels), 'pixel')} in a request: "
                f"expected at most {self.limits.request_pixels:,}",
            )
        return pixels

    def _check_faces(self, answers: Sequence[Sequence[Prediction]]) -> None:
        for answer in answers:
            if len(answer) > self.limits.faces:
                raise Refused(
                    413,
                    "too_many_faces",
                    f"{answer[0].source}: expected at most {counted(self.limits.faces, 'face')} in "
                    "a picture",
                )


def application(
    predictor: Predictor, access: Access, limits: Limits, *, wait: float = WAIT
) -> Guard:
    """The whole server as an ASGI application."""
    service = Service(predictor, limits, wait=wait)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="fervor",
        version=__version__,
        summary="The expressions that faces show, in pictures and videos.",
        docs_url=None,  # that page fetches its parts from elsewhere; ours is static/docs.html
        redoc_url=None,
        redirect_slashes=False,  # such an answer would have no body of ours
        lifespan=lifespan,
    )
    _add_endpoints(app, service)
    _add_pages(app)
    _add_refusals(app, service.metrics)
    return Guard(
        app,
        access,
        service.requests,
        service.metrics,
        open_paths=OPEN,
        paths=(*OPEN, *app.openapi()["paths"]),
    )


def _add_endpoints(app: FastAPI, service: Service) -> None:
    row = schema.rows(service.predictor.labels)
    answer = {
        "type": "object",
        "required": ["results"],
        "properties": {"results": {"type": "array", "items": {"type": "array", "items": row}}},
    }
    usual = (401, 403, 500)
    posted = (*usual, 400, 408, 413, 415, 429, 503)
    app.post(
        "/v1/predict",
        responses={
            200: schema.text("application/json", "rows", answer),
            **schema.errors(*posted, 422),
        },
        openapi_extra=schema.upload("pictures", several=True),
    )(service.predict)
    faces = {"type": "array", "items": schema.explained(service.predictor.labels)}
    explained = {"type": "object", "required": ["faces"], "properties": {"faces": faces}}
    app.post(
        "/v1/explain",
        responses={
            200: schema.text("application/json", "rows with reasons", explained),
            **schema.errors(*posted, 422, 501),
        },
        openapi_extra=schema.upload("a picture", several=False),
    )(service.explain)
    app.post(
        "/v1/video",
        response_class=Response,
        responses={
            200: schema.text(video.MEDIA_TYPE, "one row a line", row),
            **schema.errors(*posted, 422, 501),
        },
        openapi_extra=schema.upload("a video", several=False),
    )(service.video)
    app.get("/v1/health", responses=schema.errors(403, 500))(service.health)
    app.get("/v1/model", responses=schema.errors(*usual))(service.model)
    app.get("/metrics", response_class=PlainTextResponse, responses=schema.errors(*usual))(
        service.numbers
    )


def _add_pages(app: FastAPI) -> None:
    for path, name in (
        ("/", "index.html"),
        ("/docs", "docs.html"),
        ("/responsible-use", "responsible-use.html"),
        ("/favicon.ico", "icon.svg"),
    ):
        app.get(path, include_in_schema=False)(_page(STATIC / name))
    app.mount("/static", StaticFiles(directory=STATIC))


def _page(file: Path) -> Any:
    async def page() -> FileResponse:
        return FileResponse(file)

    return page


def _add_refusals(app: FastAPI, metrics: Metrics) -> None:
    def answer(refused: Refused, more: Mapping[str, str] | None = None) -> Response:
        metrics.refusal(refused.code)
        content, headers = refused.answer()
        return Response(content, refused.status, headers | dict(more or {}))

    @app.exception_handler(Refused)
    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused), "registered for it"
        return answer(error)

    @app.exception_handler(Disconnected)
    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for it"
        first = error.errors()[0]
        message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return answer(Refused(422, "invalid_parameter", message))

    @app.exception_handler(Exception)
    async def fault(_: Request, __: Exception) -> Response:
        return answer(FAULT)  # and raised on, to the guard, which logs it

    async def unknown(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        code = {404: "unknown_path", 405: "unknown_method"}[status]
        message = f"{request.method} is not answered here; see /docs"
        return answer(Refused(status, code, message), getattr(error, "headers", None))

    for status in (404, 405):
        app.exception_handler(status)(unknown)
