"""Who may use a server: the address to listen on, the token, and how late wrong tokens are answered. No sockets.

Without a token every program on this machine is admitted. With one, the first line of a client is `TOKEN <token>`, once
per address; all services that share an `Access` then admit that address, so that software without support for tokens
can follow.
"""

import hmac
import ipaddress
import threading
from collections.abc import Callable
from time import monotonic

from twin.errors import StemtwinError

LOOPBACK = "127.0.0.1"
SHORTEST_TOKEN = 12
LONGEST_LINE = 256
"""Longest line with a token, bytes."""
OPENING = b"TOKEN "
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 4.0
"""Delay of the answer to the first wrong token of an address; it doubles with each further one, up to the longest,
for which clients wait."""
FORGET_S = 600.0
"""Wrong tokens are forgotten when none came from the address for so long."""
MOST_ADDRESSES = 1024
"""Addresses whose wrong tokens are remembered; beyond it the oldest is forgotten."""


class AccessError(StemtwinError, ValueError):
    """A server that other machines could reach without a token, or a weak token."""


class Access:
    """Access control: the address to listen on, and the clients to admit. Threads may share it.

    Args:
        host: address to listen on; any other than loopback needs a token.
        token: at least 12 printable ASCII characters without a space.
        clock: seconds.

    Raises:
        AccessError: no token where one is needed, or a weak one.

    Example:
        >>> access = Access("0.0.0.0", "correct-horse-battery")
        >>> access.admits("10.0.0.7"), access.opens(b"TOKEN correct-horse-battery", "10.0.0.7")
        (False, True)
        >>> access.admits("10.0.0.7")
        True
    """

    def __init__(self, host: str = LOOPBACK, token: str | None = None, clock: Callable[[], float] = monotonic) -> None:
        if token is None and not is_loopback(host):
            raise AccessError(f"{host} is open to other machines: that needs a token (or use {LOOPBACK})")
        if token is not None and not (len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()):
            raise AccessError(f"a token has {SHORTEST_TOKEN} printable ASCII characters or more; got {len(token)}")
        if token is not None and len(token) > LONGEST_LINE // 2:
            raise AccessError(f"a token has up to {LONGEST_LINE // 2} characters; got {len(token)}")
        if token is not None and " " in token:
            raise AccessError("a token has no spaces")
        self.host = host
        self._token, self._clock = token, clock
        self._known: set[str] = set()
        self._wrong: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def admits(self, address: str) -> bool:
        """Whether a client from this address needs no token (any more)."""
        return self._token is None or address in self._known

    def opens(self, line: bytes, address: str) -> bool:
        """Whether a client's first line has the token; if so, its address is admitted from now on."""
        if self._token is None or not hmac.compare_digest(line.strip(), OPENING + self._token.encode()):
            return False
        with self._lock:
            self._known.add(address)
            self._wrong.pop(address, None)
        return True

    def delay_s(self, address: str) -> float:
        """Note a wrong token of an address; return how late to answer it. The right token is never delayed."""
        now = self._clock()
        with self._lock:
            count, last = self._wrong.pop(address, (0, now))
            count = 0 if now - last > FORGET_S else count
            while len(self._wrong) >= MOST_ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[address] = (count + 1, now)
        # The power is bounded, however many wrong tokens came.
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count, 10))


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach this address; a name other than localhost counts as open."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
