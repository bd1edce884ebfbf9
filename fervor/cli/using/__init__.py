"""Commands for those who have pictures and a model."""


def listed(labels: str) -> list[str] | None:
    """What an option names, between semicolons where it has any, else commas; None where empty."""
    return labels.split(";" if ";" in labels else ",") if labels.strip() else None
