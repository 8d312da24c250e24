"""Base of the agents of the COM family: blocks go into a map, and options can change while the stream runs."""

from dataclasses import asdict
from typing import Any, Generic, TypeVar

from agents.base import StreamMeta
from agents.block import Block
from agents.com.centre_map import ComMap, ComOptions
from twin.options import checked_options

Settings = TypeVar("Settings", bound=ComOptions)


class ComAgent(Generic[Settings]):
    """An agent without `result`.

    Attributes:
        name: name of the agent, for error messages.
        options: current options.
        map: centres of mass so far; set by `start`.
    """

    name: str

    def __init__(self, options: Settings) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError, ValueError: an option that this stream does not allow.
        """
        self.map = ComMap(self.options, self.name)
        self.check(self.options, meta)
        self.map.start(meta)

    def update(self, block: Block) -> None:
        """Add the centres of mass of the positions to the map."""
        self.map.add(block)

    def configure(self, **changes: Any) -> None:
        """Change options; radii apply to the positions to come, all else to the whole map.

        Raises:
            OptionError, MetaError, ValueError: as in `make` and `start`; nothing has changed.
        """
        options = checked_options(type(self.options), {**asdict(self.options), **changes})
        self.check(options, self.map.meta)
        self.map.configure(options)
        self.options = options

    def check(self, options: Settings, meta: StreamMeta) -> None:
        """Check the options of the method itself; by default nothing.

        Raises:
            MetaError, ValueError: an option that this stream does not allow.
        """
