"""Griffe extension: an `Example:` section with doctest prompts is shown as code, as an `Examples:` section is."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section when a docstring is read; the code keeps the singular."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for every module, class and function."""
        if obj.docstring is not None:
            text = f"\n{obj.docstring.value}"
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n").removeprefix("\n")
