"""The contract of a method."""

from typing import Any, ClassVar, Protocol

from efface.debiased import Debiased
from efface.problem import Problem


class Method(Protocol):
    """A frozen keyword-only dataclass that checks its options when it is made."""

    uses_attribute_at_test: ClassVar[bool]
    """Whether `represent` needs `a`; marked in every table."""
    small: ClassVar[dict[str, Any]]
    """Options with which a test runs it in under 2 s."""

    def skip(self, problem: Problem) -> str | None:
        """Why the method cannot run on this problem, or None."""
        ...

    def fit(self, problem: Problem) -> Debiased: ...
