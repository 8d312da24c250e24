"""Plain data from JSON and YAML that somebody else wrote: limits on size, depth, aliases and digits.

`loads` of `json_text` and of `yaml_text` are the only readers; both return dicts, lists, text, numbers, truth or None.
"""

from dataclasses import dataclass

MOST_DIGITS = 64
"""Characters of one number: double precision needs 24, and a longer whole number is converted in quadratic time."""


@dataclass(frozen=True)
class Limits:
    """Limits of one text.

    Attributes:
        bytes: size of the text in UTF-8.
        depth: levels of lists and mappings inside each other.
        values: number of keys and values, aliases expanded (YAML only; the size bounds it in JSON).
    """

    bytes: int = 2**20
    depth: int = 40
    values: int = 100_000
