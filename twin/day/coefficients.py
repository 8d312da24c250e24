"""Values by coefficient or by radial order, as keys of plain data."""

from typing import Annotated, Any, TypeVar

from annotated_types import Gt, Lt
from pydantic import AfterValidator

from twin.aberrations import NAMES, TERMS, index
from twin.errors import check_known
from twin.options import NonNegative

ORDERS = tuple(sorted({str(term.n) for term in TERMS}))
Value = TypeVar("Value")
ByName = TypeVar("ByName", bound=dict[str, Any])
Correlation = Annotated[float, Gt(-1), Lt(1)]


def _named(by_name: ByName) -> ByName:
    """Refuse keys that are not coefficients."""
    for name in by_name:
        index(name)
    return by_name


def _ordered_or_named(by_key: ByName) -> ByName:
    """Refuse keys that are neither a radial order as text nor a coefficient."""
    for key in by_key:
        check_known(key, (*ORDERS, *NAMES), "a radial order or a coefficient")
    return by_key


PerCoefficient = Annotated[dict[str, Value], AfterValidator(_named)]
PerOrder = Annotated[dict[str, NonNegative], AfterValidator(_ordered_or_named)]
