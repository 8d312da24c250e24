"""What an image lacks for its quantification, in one sentence."""

from twin.errors import StemtwinError


class QuantifyError(StemtwinError, ValueError):
    """An image from which no columns can be measured."""
