"""Strangers at a port: what they say, and many of them at once."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

STRANGERS = 1000
HELLOS = {
    "a page's request": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a page's form": b"POST / HTTP/1.1\r\nContent-Length: 51\r\n\r\n"
    b'45:{"jsonrpc":"2.0","id":1,"method":"reset","params":{"seed":1}},',
    "a page's form for a camera": b"POST / HTTP/1.1\r\n\r\n" + b"MPX,0000000021,CMD,STARTACQUISITION",
    "a WebSocket": b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100a50100") + bytes(160),
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a port scan": b"",
    "NUL": b"\0" * 64,
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
    "a camera's RTSP": b"OPTIONS rtsp://127.0.0.1/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "a telnet negotiation": bytes.fromhex("fffd18fffd20fffd23fffd27"),
    "a proxy's header": b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 7073\r\n",
    "a share's hello": bytes.fromhex("00000054ff534d427200000000180128").ljust(88, b"\0"),
    "a length without an end": b"9" * 4096,
}
"""First bytes of programs that take a port for another one, by name."""


def call(stack: ExitStack, port: int, host: str = "127.0.0.1") -> socket.socket:
    return stack.enter_context(socket.create_connection((host, port), timeout=15))


def ask(line: socket.socket, data: bytes) -> bytes:
    line.sendall(data)
    return line.recv(1000)


def heard(line: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    data = b""
    with suppress(ConnectionError):
        while more := line.recv(2**16):
            data += more
    return data


def gather(stack: ExitStack, port: int, hello: bytes) -> list[socket.socket]:
    """Connect all strangers; each says hello and leaves its line open."""
    lines = []
    for _ in range(STRANGERS):
        line = call(stack, port)
        with suppress(OSError):
            line.sendall(hello)
        lines.append(line)
    return lines


@contextmanager
def files_allowed(count: int) -> Iterator[None]:
    """Let this process have so many files open; skip the test if that is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            pytest.skip(f"only {hard} files may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
