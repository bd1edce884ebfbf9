"""Class descriptions from any OpenAI-compatible chat endpoint, a hosted or a local one.

The question is MPA-FER's (arXiv 2506.21017, by reports of it); the form of the answer is ours, so
that it continues a prompt. Answers are cached one by one, and the same question is asked once.
"""

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from fervor.errors import EndpointError, UsageError, counted
from fervor.io.provenance import write_text


__all__ = ["KEY", "QUESTION", "Endpoint", "describe"]

KEY = "FERVOR_API_KEY"
"""Environment variable of the endpoint's key; it is sent there and written nowhere."""

QUESTION = (
    "What are the most useful visual features to distinguish the facial expression of {label}?"
)
FORM = (
    "Answer with one line of at most 25 words: features that are visible in the face, separated by "
    "commas, without a full sentence, so that they continue the words 'a face with'."
)

LONGEST_WORDS = 60
LONGEST_BYTES = 1_000_000
LONGEST_WAIT = 60.0
PATH = "/chat/completions"

_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        url: the interface's root, such as http://localhost:8080/v1.
        model: the model's name there.
        seed: asked for with each question, beside a temperature of 0.
        timeout: seconds to wait for an answer.
        tries: how often a question is asked before it is given up.
        pause: seconds before the second try; doubled before each further one.
    """

    url: str
    model: str
    seed: int = 0
    timeout: float = 60.0
    tries: int = 4
    pause: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number or none of 1 to 65535, half a bracket
            is_address = False
        if not is_address:
            raise UsageError(
                f"endpoint {self.url} is no address: expected one like http://localhost:8080/v1"
            )
        if self.timeout <= 0 or self.tries < 1:
            raise UsageError(
                f"timeout is {self.timeout} and tries {self.tries}, expected above 0 and 1 or more"
            )

    @property
    def shown(self) -> str:
        """The address without what may be secret in it: user, password, query."""
        parts = urllib.parse.urlsplit(self.url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        path = parts.path.rstrip("/").removesuffix(PATH)
        return f"{parts.scheme}://{host}{port}{path}"


def describe(
    labels: Sequence[str], endpoint: Endpoint, *, output: Path, cache: Path
) -> dict[str, str]:
    """Ask for each label and write {"descriptions": {label: text}} to `output`.

    Raises:
        UsageError: no labels, or one twice.
        EndpointError: the endpoint refuses, does not answer, or answers nonsense.
    """
    names = [label.strip() for label in labels]
    if not names or not all(names) or len(set(names)) < len(names):
        raise UsageError(f"labels are {', '.join(names) or 'empty'}: expected different names")
    texts = {name: _cached_answer(name, endpoint, cache) for name in names}
    content = {
        "version": 1,
        "question": f"{QUESTION} {FORM}",
        "endpoint": endpoint.shown,
        "model": endpoint.model,
        "seed": endpoint.seed,
        "descriptions": texts,
    }
    write_text(output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return texts


def _cached_answer(label: str, endpoint: Endpoint, cache: Path) -> str:
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": f"{QUESTION.format(label=label)} {FORM}"}],
        "temperature": 0,
        "seed": endpoint.seed,
    }
    question = json.dumps([endpoint.shown, body], sort_keys=True)
    path = cache / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        stored: str = json.loads(path.read_text(encoding="utf-8"))["answer"]
        return stored
    answer = _patiently(label, endpoint, body)
    write_text(path, json.dumps({**body, "answer": answer}, indent=1, ensure_ascii=False) + "\n")
    return answer


class _Temporary(Exception):
    """What another try may cure; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _patiently(label: str, endpoint: Endpoint, body: dict[str, Any]) -> str:
    """The answer, after as many tries as it takes and is allowed."""
    for number in range(endpoint.tries):
        try:
            return _text_of(_post(endpoint, body))
        except _Temporary as trouble:
            reason, wait = str(trouble), trouble.wait
        if number + 1 < endpoint.tries:
            time.sleep(min(max(wait, endpoint.pause * 2**number), LONGEST_WAIT))
    raise EndpointError(
        f"endpoint {endpoint.shown}, asked about {label!r} {counted(endpoint.tries, 'time')}: "
        f"{reason}; check that it runs this model behind an OpenAI-compatible interface"
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that was given and to no other."""

    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


def _post(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
    """The raw answer; raises `_Temporary` where another try may help."""
    parts = urllib.parse.urlsplit(endpoint.url)
    path = parts.path.rstrip("/").removesuffix(PATH) + PATH
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    address = urllib.parse.urlunsplit(parts._replace(path=path, fragment=""))
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=endpoint.timeout) as answer:
            content: bytes = answer.read(LONGEST_BYTES + 1)
    except urllib.error.HTTPError as error:
        reason = f"answered {error.code} {error.reason}"
        if error.code == 429 or error.code >= 500:
            raise _Temporary(reason, _seconds(error.headers.get("Retry-After"))) from None
        hint = f"; set {KEY}" if error.code in (401, 403) else ""
        raise EndpointError(
            f"endpoint {endpoint.shown} {reason}: expected an OpenAI-compatible interface that "
            f"knows the model {endpoint.model}{hint}"
        ) from None
    except TimeoutError:
        raise _Temporary(f"no answer within {endpoint.timeout:g} s") from None
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            raise _Temporary(f"no answer within {endpoint.timeout:g} s") from None
        raise _Temporary(f"not reached ({cause or type(error).__name__})") from None
    if len(content) > LONGEST_BYTES:
        raise _Temporary(f"answered more than {LONGEST_BYTES:,} bytes")
    return content


def _seconds(value: str | None) -> float:
    return float(value) if value and re.fullmatch(r"\d{1,4}", value) else 0.0


def _text_of(content: bytes) -> str:
    """The one line that was asked for; raises `_Temporary` for anything else."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Temporary("the answer holds no choices[0].message.content") from None
    if not isinstance(text, str):
        raise _Temporary("the answer holds no text")
    line = " ".join(_THOUGHTS.sub("", text).split()).strip(" \"'.")
    line = re.sub(r"^(a face )?with ", "", line, flags=re.IGNORECASE)
    if not re.search(r"[^\W\d_]{2}", line):
        raise _Temporary("the answer is empty")
    if (count := len(line.split())) > LONGEST_WORDS:
        raise _Temporary(f"the answer has {count} words, at most {LONGEST_WORDS} are taken")
    return line
