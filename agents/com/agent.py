"""What the agents of the COM family share: blocks go into a map, and settings change while the stream runs."""

from dataclasses import asdict
from typing import Any, Generic, TypeVar

from agents.base import StreamMeta
from agents.block import Block
from agents.com.centre_map import ComMap, ComOptions
from twin.options import checked_options

Settings = TypeVar("Settings", bound=ComOptions)


class ComAgent(Generic[Settings]):
    """An agent without its `result`.

    Attributes:
        name: of the agent; opens error messages.
        options: in force.
        map: what has come; there from `start` on.
    """

    name: str

    def __init__(self, options: Settings) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Forget the old stream.

        Raises:
            MetaError, ValueError: a setting that this stream does not allow.
        """
        self.map = ComMap(self.options, self.name)
        self.check(self.options, meta)
        self.map.start(meta)

    def update(self, block: Block) -> None:
        self.map.add(block)

    def configure(self, **changes: Any) -> None:
        """Other settings from now on; radii count for what is still to come, all else for the whole map.

        Raises:
            OptionError, MetaError, ValueError: as on making and starting; nothing has changed.
        """
        options = checked_options(type(self.options), {**asdict(self.options), **changes})
        self.check(options, self.map.meta)
        self.map.configure(options)
        self.options = options

    def check(self, options: Settings, meta: StreamMeta) -> None:
        """Refuse what the map does not know of; by default nothing.

        Raises:
            MetaError, ValueError: a setting that this stream does not allow.
        """
