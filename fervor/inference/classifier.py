"""The classifier of a model: face crops -> logits, embeddings and local features (onnxruntime)."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fervor.artifacts.model_info import ModelInfo
from fervor.errors import ModelError, UsageError, counted
from fervor.inference.open_vocabulary import Vocabulary
from fervor.io.image import to_input
from fervor.io.onnx_session import Session
from fervor.io.prefetch import map_ordered


__all__ = ["NOT_FINITE", "FaceClassifier", "Prior", "operating_point", "softmax"]

Prior = Literal["natural", "balanced"]

NOT_FINITE = "the model's answer to face {} is no finite number"


class FaceClassifier:
    """A graph with what turns its numbers into logits: words, temperature and operating point.

    Args:
        info: the description of the model.
        session: its graph, opened.
        offset: what is subtracted from logits [c] (the operating point).
        words: what faces are compared with in place of the model's own classes.
        batch_size: faces of one pass at most.
        at_once: passes that run side by side in `probabilities`.
    """

    def __init__(
        self,
        info: ModelInfo,
        session: Session,
        *,
        offset: NDArray[np.float64],
        words: Vocabulary | None,
        batch_size: int,
        at_once: int,
    ) -> None:
        self.info, self.words = info, words
        self.labels = info.labels if words is None else words.labels
        self._session, self._offset = session, offset
        self._batch_size, self._at_once = batch_size, at_once

    def at(self, offset: NDArray[np.float64]) -> Self:
        """The same graph at another operating point."""
        other = copy(self)
        other._offset = offset
        return other

    @property
    def outputs(self) -> dict[str, list[int | str]]:
        """The shape of each output of the graph."""
        return self._session.outputs

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Logits [n c] of faces (RGB, uint8, any size), tempered, at the operating point."""
        rows = [np.empty((0, len(self.labels)))]
        first = "logits" if self.words is None else "embedding"
        for batch in self.batches(crops):
            (answers,) = self._session.run([first], {"image": self.input(batch)})
            rows.append(self._tempered(answers, len(batch)))
        return np.concatenate(rows)

    def __call__(
        self,
        crops: Sequence[NDArray[np.uint8]],
        covered: Callable[[NDArray[Any]], list[tuple[str, ...]]] | None,
    ) -> tuple[NDArray[np.float64], list[tuple[str, ...] | None]]:
        """Logits [n c] of faces (RGB, uint8, any size), tempered, at the operating point.

        Beside them the parts of each that `covered` names, given the local features [b m d] of a
        batch; None for each where `covered` is None.
        """
        rows: list[NDArray[np.float64]] = [np.empty((0, len(self.labels)))]
        parts: list[tuple[str, ...] | None] = []
        names = ["logits" if self.words is None else "embedding", "local"]
        outputs = names[: 1 if covered is None else 2]
        for batch in self.batches(crops):
            answers, *local = self._session.run(outputs, {"image": self.input(batch)})
            rows.append(self._tempered(answers, len(batch)))
            parts += [None] * len(batch) if covered is None else covered(local[0])
        return np.concatenate(rows), parts

    def logits_and_local(
        self, crops: Sequence[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Logits [n c] and local features [n m d] of one pass, for a batch of faces."""
        first = "logits" if self.words is None else "embedding"
        answers, local = self._session.run([first, "local"], {"image": self.input(crops)})
        return self._tempered(answers, len(crops)), local

    def embeddings(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings [n d] as the graph has them.

        Raises:
            ModelError: the graph gives no embedding, or one that is no finite number.
        """
        shape = self.outputs.get("embedding")
        if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
            raise ModelError(
                f"model {self.info.name} gives no embedding: export it with this version of fervor"
            )
        parts = [np.empty((0, shape[1]), np.float32)]
        for batch in self.batches(crops):
            parts += self._session.run(["embedding"], {"image": self.input(batch)})
            if parts[-1].shape != (len(batch), shape[1]):
                raise ModelError(f"model {self.info.name} answers {parts[-1].shape} embeddings")
        embeddings = np.concatenate(parts)
        if (wrong := np.flatnonzero(~np.isfinite(embeddings).all(axis=1))).size:
            raise ModelError(NOT_FINITE.format(wrong[0]))
        return embeddings

    def probabilities(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities [n c] of faces, rows in their order.

        Raises:
            ModelError: an answer is no finite number.
        """
        step = max(1, -(-len(crops) // self._at_once))
        parts = [crops[start : start + step] for start in range(0, len(crops), step)] or [crops]
        logits = np.concatenate([*map_ordered(self.logits, parts, self._at_once)])
        if (wrong := np.flatnonzero(~np.isfinite(logits).all(axis=1))).size:
            raise ModelError(NOT_FINITE.format(wrong[0]))
        return softmax(logits)

    def batches(self, crops: Sequence[NDArray[np.uint8]]) -> list[Sequence[NDArray[np.uint8]]]:
        """The faces, as many together as one pass takes."""
        starts = range(0, len(crops), self._batch_size)
        return [crops[start : start + self._batch_size] for start in starts]

    def input(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """What the network takes in, [n 3 size size]."""
        return np.stack([to_input(pixels, self.info.input.size) for pixels in crops])

    def _tempered(self, answers: NDArray[Any], count: int) -> NDArray[np.float64]:
        """Logits [n c] at the operating point, from what the graph answers to `count` faces."""
        logits = np.asarray(answers, np.float64)
        if self.words is not None:
            width = self.words.vectors.shape[1]
            if logits.shape[1:] != (width,):
                raise ModelError(
                    f"model {self.info.name} has embeddings of shape {logits.shape[1:]}: its words "
                    f"have {width} numbers; export it again"
                )
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found later
                logits = self.words.logits(logits, self.info.temperature)
        if logits.shape != (count, len(self.labels)):
            raise ModelError(
                f"model {self.info.name} answers {logits.shape} to {counted(count, 'face')}: "
                f"expected {counted(len(self.labels), 'class')} each"
            )
        if self.words is None:
            logits = logits / self.info.temperature
        return logits - self._offset


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits [n c], each row summing to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def operating_point(
    info: ModelInfo,
    labels: Sequence[str] | None,
    prior: Prior,
    abstain: float | Literal["auto"],
) -> tuple[NDArray[np.float64], float]:
    """What is subtracted from logits [c], and the least confidence of an answer.

    Raises:
        UsageError: words of one's own, or a model that stores none.
    """
    nothing = np.zeros(len(info.labels if labels is None else labels))
    if prior == "natural" and abstain != "auto":
        return nothing, abstain
    asked = "prior=balanced" if prior == "balanced" else "abstain=auto"
    if labels is not None:
        raise UsageError(f"{asked}: stored for a model's own classes; leave it or labels out")
    if info.operating_points is None:
        raise UsageError(
            f"{asked}: model {info.name} stores no operating points; train it with this version "
            "of fervor, which stores them in model.json, or run tools/weights/fit_points.py on it"
        )
    points = info.operating_points
    offset = points.prior_share * np.array(points.log_prior) if prior == "balanced" else nothing
    point = points.balanced if prior == "balanced" else points.natural
    return offset, point.abstain if abstain == "auto" else abstain
