"""Counts of a server's work, as text that Prometheus reads; no names, addresses or answers."""

from collections.abc import Callable, Sequence
from threading import Lock

from fervor.inference.prediction import Prediction


__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PICTURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Metrics:
    """Counters and histograms, for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counters: dict[str, dict[str, int]] = {
            name: {}
            for name in (
                "fervor_requests_total",
                "fervor_refusals_total",
                "fervor_pictures_total",
                "fervor_faces_total",
                "fervor_video_frames_total",
            )
        }
        self._seconds = _Histogram(SECONDS)
        self._pictures = _Histogram(PICTURES)
        self._gauges: dict[str, tuple[str, Callable[[], int]]] = {}

    def gauge(self, name: str, text: str, value: Callable[[], int]) -> None:
        """Add a number that is asked for each time."""
        self._gauges[name] = (text, value)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One answered request; `path` is one of the server's own."""
        with self._lock:
            self._add("fervor_requests_total", f'path="{path}",status="{status}"')
            self._seconds.add(seconds)

    def refusal(self, code: str) -> None:
        """A request that was refused."""
        with self._lock:
            self._add("fervor_refusals_total", f'code="{code}"')

    def batch(self, pictures: int) -> None:
        """Pictures that are run together."""
        with self._lock:
            self._pictures.add(pictures)

    def picture(self, answers: Sequence[Prediction]) -> None:
        """A picture that was looked at, by its answers: one of each face, or one without."""
        faces = sum(answer.status == "ok" for answer in answers)
        with self._lock:
            self._add("fervor_pictures_total", f'status="{answers[0].status}"')
            self._add("fervor_faces_total", "", faces)

    def frame(self) -> None:
        """A frame of a video."""
        with self._lock:
            self._add("fervor_video_frames_total", "")

    def _add(self, name: str, labels: str, amount: int = 1) -> None:
        counts = self._counters[name]
        counts[labels] = counts.get(labels, 0) + amount

    def text(self) -> str:
        """All of it in Prometheus's text format."""
        with self._lock:
            lines = []
            for name, counts in self._counters.items():
                lines.append(f"# HELP {name} {HELP[name]}")
                lines.append(f"# TYPE {name} counter")
                lines += [f"{_labelled(name, key)} {value}" for key, value in counts.items()]
            lines += self._seconds.lines("fervor_request_seconds", "Time until the answer's end.")
            lines += self._pictures.lines("fervor_batch_pictures", "Pictures run together.")
        for name, (text, value) in self._gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value()}"]
        return "\n".join(lines) + "\n"


HELP = {
    "fervor_requests_total": "Requests answered, by path and status.",
    "fervor_refusals_total": "Requests refused, by reason.",
    "fervor_pictures_total": "Pictures looked at, by status.",
    "fervor_faces_total": "Faces classified in pictures.",
    "fervor_video_frames_total": "Frames of videos looked at.",
}


def _labelled(name: str, labels: str) -> str:
    return f"{name}{{{labels}}}" if labels else name


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts = bounds, [0] * len(bounds)
        self._count, self._sum = 0, 0.0

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        for number, bound in enumerate(self._bounds):
            self._counts[number] += value <= bound

    def lines(self, name: str, text: str) -> list[str]:
        pairs = zip(self._bounds, self._counts, strict=True)
        return [
            f"# HELP {name} {text}",
            f"# TYPE {name} histogram",
            *(f'{name}_bucket{{le="{bound:g}"}} {count}' for bound, count in pairs),
            f'{name}_bucket{{le="+Inf"}} {self._count}',
            f"{name}_sum {self._sum:.6f}",
            f"{name}_count {self._count}",
        ]
