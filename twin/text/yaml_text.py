"""YAML within limits, and without the parts of YAML that plain data do not need: dates, tags, keys that are lists."""

from typing import Any, ClassVar

import yaml

from twin.errors import StemtwinError
from twin.text import MOST_DIGITS, Limits

SCENARIO = Limits()
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
"""Kinds of plain data. A date is text: no value of a scenario is one."""
TEXT = "tag:yaml.org,2002:str"


class YamlError(StemtwinError, ValueError):
    """A text that is not YAML, or that goes beyond the limits; the message is a clause without the file's name.

    Attributes:
        line: line of the text, from 1; None if unknown.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(" ".join(problem.split()))
        self.line = line


def loads(text: str, limits: Limits = SCENARIO) -> Any:
    """Return the value of a YAML text.

    Raises:
        YamlError: not YAML, too large, too deep, too many values once aliases are expanded, an alias of what contains
            it, a key given twice or one that is a list or a mapping, a tag, or a number of more than `MOST_DIGITS`.

    Example:
        >>> loads("day: {dose_e: 2.0e+5}")
        {'day': {'dose_e': 200000.0}}
        >>> loads("a: &a [*a]")
        Traceback (most recent call last):
        twin.text.yaml_text.YamlError: the alias a stands inside what it repeats
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.bytes:
        raise YamlError(f"{size} bytes; at most {limits.bytes} are read")
    try:
        loader = _Loader(text, limits)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(str(error.problem or error.context), line) from None
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from None
    except (ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(str(error)) from None


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that counts while it composes, before anything is constructed or expanded."""

    # Without the resolver of dates.
    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in pairs if tag in PLAIN]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, limits: Limits) -> None:
        super().__init__(text)
        self._limits, self._depth, self._values = limits, 0, 0
        self._sizes: dict[int, int] = {}
        self._open: set[str] = set()

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _problem(f"the alias {event.anchor} stands inside what it repeats", node)
        else:
            self._depth += 1
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if self._depth > self._limits.depth:
                raise _problem(f"lists and mappings are at most {self._limits.depth} deep", event)
            if getattr(event, "tag", None) not in (None, "!", TEXT):
                raise _problem(f"the tag {event.tag} is not read; write the plain value", event)
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._check(node)
            self._sizes[id(node)] = self._size(node)
        if self._sizes[id(node)] > self._limits.values:
            raise _problem(f"more than {self._limits.values} values, aliases counted each time", node)
        return node

    def _size(self, node: Any) -> int:
        """Number of values of a node, aliases counted each time they stand there."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        return 1 + sum(self._sizes[id(part)] for part in parts)

    def _check(self, node: Any) -> None:
        """Refuse a key that is no scalar or stands there twice, and a long number."""
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
            if len(node.value) > MOST_DIGITS:
                raise _problem(f"a number of {len(node.value)} characters; at most {MOST_DIGITS} are read", node)
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _problem("a key is plain text, not a list or a mapping", key)
                if key.value in seen:
                    raise _problem(f"{key.value} is given twice", key)
                seen.add(key.value)


def _problem(words: str, place: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, words, place.start_mark)
