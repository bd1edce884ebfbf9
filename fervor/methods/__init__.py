"""The methods by name; the next one is one file here and one line in `plugins.METHODS`."""

from fervor import plugins
from fervor.errors import UsageError
from fervor.methods.base import Method


def method_class(name: str) -> type[Method]:
    """The class of a method: of fervor, of an entry point, or package.module:Class.

    Raises:
        UsageError: no method has that name, its package is missing, or it is no `Method`.
    """
    kind = plugins.load("methods", name)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UsageError(f"method {name} is no sub-class of fervor.methods.base.Method")
    return kind
