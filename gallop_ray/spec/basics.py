"""Names of the small general tasks and the general text that come with the package."""

from gallop_ray.spec.problems import did_you_mean

BASICS_TEXT = "basics"
"""evaluation.text: plain English sentences."""
BASICS = ("capitals", "opposites", "kinds", "counting", "sums")
"""What every small language model knows, of no data set: the tasks for which `source` is `basics:<name>`."""
_PREFIX = "basics:"


def basics_source(name: str) -> str:
    """The `source` of one of them."""
    return f"{_PREFIX}{name}"


def basics_entry(name: str) -> dict[str, str]:
    """One of them in data.tasks. By the sum: their answers are single words, and per character a longer one wins."""
    return {"source": basics_source(name), "normalize": "sum"}


def basics_name(source: str | None) -> str | None:
    """Which of them a source is; None for any other source. Raises ValueError for one that there is not."""
    if source is None or not source.startswith(_PREFIX):
        return None
    name = source.removeprefix(_PREFIX)
    if name not in BASICS:
        known = ", ".join(map(basics_source, BASICS))
        raise ValueError(f"must be one of {known}{did_you_mean(name, BASICS)}")
    return name
