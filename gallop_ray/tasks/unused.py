"""Fields of a task that nothing would look at, for its examples are of another kind."""

from collections.abc import Iterator, Sequence

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.measuring import Measuring


def refuse_unused_fields(sweep: Sweep, name: str, examples: Sequence[Example], how: Measuring) -> None:
    """Raises ValueError for a field of data.tasks that says something about what these examples are not."""
    if unused := next(_unused(sweep, name, examples, how), None):
        field, what = unused
        raise ValueError(f"data.tasks.{name}.{field} is for {what}, which {name} has none of; leave it out")


def _unused(sweep: Sweep, name: str, examples: Sequence[Example], how: Measuring) -> Iterator[tuple[str, str]]:
    asked = sweep.data.task(name)
    if asked.learn != "all" and not examples[0].messages:
        yield "learn", "conversations"
    if how.kind == "choice":
        return
    for field in ("formulation", "normalize"):
        if getattr(asked, field) is not None:
            yield field, "choices"
    if any(each.by == "generation" for each in how.of(test=True)):
        return
    for field in ("stop", "max_new_tokens"):
        if getattr(asked, field):
            yield field, "answers that are generated"
