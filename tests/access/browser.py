"""Browsers that log in at a site, and their websockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar
from time import time
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.processes import Child, Server
from tests.wire.client import connected


class Browser:
    """The cookies of one browser."""

    def __init__(self) -> None:
        self._cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self._cookies))

    async def visit(self, server: Child, view: str, **query: str) -> float:
        """Call a view; return when its answer was there, in seconds since 1970."""
        assert await self.get(server, f"{view}?{urlencode(query)}") == "done"
        return time()

    async def get(self, server: Child, path: str) -> str:
        """Get a page."""
        url = f"http://127.0.0.1:{server.port}/{path}"

        def read() -> str:
            with self._opener.open(url, timeout=60) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(read)

    def take_cookies_of(self, other: "Browser") -> None:
        """Have the cookies that ``other`` has now."""
        for cookie in other._cookies:
            self._cookies.set_cookie(cookie)

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{each.name}={each.value}" for each in self._cookies)}

    @asynccontextmanager
    async def socket(self, server: Server) -> AsyncIterator["Socket"]:
        """A websocket of this browser, closed at the end."""
        async with connected(server.url, additional_headers=self.headers) as client:
            socket = Socket(client.connection)
            reading = asyncio.create_task(socket.read())
            try:
                yield socket
            finally:
                reading.cancel()
                await asyncio.wait([reading])


class App(Browser):
    """A program without cookies, whose websockets have a token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}


class Socket:
    """A websocket that reads all the time, and keeps what came."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        """The published values."""
        self.replies: list[Any] = []
        self.ended: dict[str, str] = {}
        """By topic the code with which the server has ended the subscription."""
        self.after_end: list[Any] = []
        """The values that came after the server had ended a subscription."""
        self.close_code: int | None = None

    async def read(self) -> None:
        try:
            while True:
                frame = json.loads(await self.connection.recv())
                if frame["type"] == "publish":
                    if self.ended:
                        self.after_end.append(frame["message"])
                    self.messages.append(frame["message"])
                elif frame["type"] == "unsubscribed":
                    self.ended[frame["topic"]] = frame["code"]
                else:
                    self.replies.append(frame)
        except ConnectionClosed as error:
            self.close_code = error.rcvd.code if error.rcvd else 1006

    @property
    def is_out(self) -> bool:
        """True once the server has closed the connection, or ended a subscription."""
        return self.close_code is not None or bool(self.ended)
