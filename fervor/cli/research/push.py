"""The command `fervor push`."""

from fervor.errors import DONE


def push(run: str, name: str, *, private: bool = False) -> int:
    """Publish a model folder on the Hugging Face Hub.

    Args:
        run: the run or model folder.
        name: user/name on the hub; the login of huggingface_hub is used.
        private: create the repository for your own eyes.
    """
    from fervor.artifacts import hub

    print(hub.push(run, name, private=private))
    return DONE
