"""Figs. 7 and 8: error against observations, from comparisons that `benchmarks.campaign` has stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenarios.figures.pictures import MissingCampaign
from scenarios.schema import load
from twin.errors import reason
from twin.text import json_text

CAMPAIGN, OLDER = "error_curves", "vae_em_against_bo"
"""Comparison on four days; and the one on `day_a` alone that stands in while the other has not been run."""


def stored(campaign: str, folder: Path) -> Mapping[str, Any]:
    """Read the figures of a comparison, by scenario.

    Raises:
        MissingCampaign: not there, or damaged; the message has the command that makes it.
    """
    path = folder / f"accuracy_{campaign}.json"
    try:
        found: Mapping[str, Any] = json_text.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingCampaign(
            f"needs {path}, which is missing: run `python -m benchmarks.campaign {campaign}`"
        ) from None
    except (OSError, ValueError) as error:
        raise MissingCampaign(f"{path} cannot be read: {reason(error)}") from error
    return found


def mild_and_strong_gap(folder: Path) -> bytes:
    """Draw the error curves on `day_a` and `day_b` (Fig. 7); on `day_a` alone from the older comparison."""
    try:
        return _curves(stored(CAMPAIGN, folder), ("day_a", "day_b"))
    except MissingCampaign as missing:
        try:
            return _curves(stored(OLDER, folder), ("day_a",))
        except MissingCampaign:
            raise missing from None


def further_days(folder: Path) -> bytes:
    """Draw the error curves on `day_c` and `random_1` (Fig. 8)."""
    return _curves(stored(CAMPAIGN, folder), ("day_c", "random_1"))


def _curves(found: Mapping[str, Any], days: Sequence[str]) -> bytes:
    from scenarios.comparison import plots

    return plots.error_curves({"scenarios": {day: found[day] for day in days}}, {day: load(day) for day in days})
