"""The door of the live page: token, Host and Origin."""

from typing import Any

import pytest

from scenarios.live.door import Door
from twin.server.access import Access

TOKEN = "a-token-for-tests"


async def nothing(*arguments: Any) -> None:
    raise AssertionError("nobody was to get here")


def problem(
    kind: str = "http",
    host: str = "127.0.0.1:8000",
    origin: str | None = None,
    query: str = f"token={TOKEN}",
    path: str = "/",
    listens: str = "127.0.0.1",
) -> str:
    headers = [(b"host", host.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
    scope = {"type": kind, "path": path, "headers": headers, "query_string": query.encode()}
    return Door(nothing, Access(listens, TOKEN), 8000).problem(scope)


def test_who_has_the_address_comes_in() -> None:
    assert problem() == ""
    assert problem(host="localhost:8000") == ""
    assert problem("websocket", origin="http://127.0.0.1:8000") == ""
    assert problem(query="", path="/static/live.js") == ""


@pytest.mark.parametrize("query", ["", "token=", "token=a-token-for-test", "token=x&" * 200, "token=%ff%00"])
def test_without_the_token_there_is_nothing(query: str) -> None:
    assert "token" in problem(query=query)
    assert "token" in problem("websocket", origin="http://127.0.0.1:8000", query=query, path="/static/ws")


def test_another_name_for_the_server_is_refused() -> None:
    """A page of another site that has its own name point here (DNS rebinding)."""
    assert "called" in problem(host="evil.example:8000")
    assert "called" in problem(host="127.0.0.1:8001")
    assert "called" in problem(host="")


def test_a_page_of_another_site_cannot_open_the_websocket() -> None:
    assert "another site" in problem("websocket", origin="http://evil.example")
    assert "another site" in problem("websocket", origin="null")
    assert "another site" in problem("websocket", origin="https://127.0.0.1:8000")
    assert "Origin" in problem("websocket")
    assert "another site" in problem(origin="http://evil.example")


def test_on_an_open_address_any_name_will_do_but_the_origin_is_checked() -> None:
    assert problem(host="scope.example:8000", listens="0.0.0.0") == ""
    assert "another site" in problem("websocket", host="scope.example:8000", origin="http://evil", listens="0.0.0.0")


def test_an_admitted_token_does_not_admit_the_address() -> None:
    door = Door(nothing, Access("127.0.0.1", TOKEN), 8000)
    scope = {"type": "http", "path": "/", "headers": [(b"host", b"127.0.0.1:8000")], "query_string": b""}
    assert door.problem({**scope, "query_string": f"token={TOKEN}".encode()}) == ""
    assert "token" in door.problem(scope)
