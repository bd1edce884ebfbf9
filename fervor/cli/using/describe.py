"""The command `fervor describe`."""

from pathlib import Path

from fervor.errors import DONE


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
    from fervor.prompts.descriptions import Endpoint
    from fervor.prompts.descriptions import describe as ask

    where = Endpoint(endpoint, model, seed=seed, timeout=timeout, tries=tries)
    texts = ask(labels.split(","), where, output=Path(output), cache=Path(cache))
    for label, text in texts.items():
        print(f"{label}: {text}")
    print(f"written to {output}")
    return DONE
