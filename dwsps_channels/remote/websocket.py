"""Requests to the server over its websocket, with a credential signed with ``SECRET_KEY``."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar, NamedTuple

from django.db import Error as DatabaseError

from dwsps_channels.client.blocking_connection import BlockingConnection
from dwsps_channels.client.errors import ClientError, ConnectError
from dwsps_channels.client.messages import Incoming, InvalidFrame, decode, encode
from dwsps_channels.peering.inbound.worker_credentials import Purpose, own_server_id, sign_worker
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.messages import Action
from dwsps_channels.protocol.text import printable
from dwsps_channels.threads.database import again_if_broken, leaving_none_open


def look_up_server_id() -> str:
    """Read the server's id from the database; blocks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _look_up()
    # Django refuses queries in a thread with a running event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_look_up).result()


def _look_up() -> str:
    # A thread that asks the database nothing else would keep this connection to its end.
    return leaving_none_open(partial(again_if_broken, own_server_id))


class RefusedByServer(Unavailable):
    """The server answered with an error that it would answer again."""


class Reply(NamedTuple):
    """The server's ack, and the deliveries that came before it."""

    ack: Incoming
    deliveries: list[Incoming]


class WebSocketRequests:
    """A connection to the websocket at ``url``, made by the first request. See ``Connection``.

    It is kept. The server closes one that is not used for some 40 seconds, as nobody answers its pings meanwhile; the
    next request makes another. A subclass says what it is for.
    """

    purpose: ClassVar[Purpose]

    def __init__(self, url: str, server_id: Callable[[], str] = look_up_server_id) -> None:
        """``server_id`` returns the server's id, for each connection."""
        self._url = url
        self._server_id = server_id
        self._connection: BlockingConnection | None = None
        self._last_id = 0

    def request(self, action: Action, topic: str, fields: bytes, deadline: float) -> Reply:
        """Send a request with further ``fields``, each as JSON with a comma before it, and wait for the answer.

        Raises:
            TimeoutError: not before the deadline; the server may have it nevertheless.
            OSError: no connection came about, or it broke. The text says why.
            Unavailable: the server answered with an error; ``RefusedByServer`` if it would again. The connection stands.
        """
        self._last_id += 1
        frame = encode(action, self._last_id, topic, fields)
        deliveries: list[Incoming] = []
        try:
            connection = self._connected(deadline)
            connection.send(frame, deadline)
            # Whatever else the server says, such as a greeting, is not for us.
            while (answer := decode(connection.receive(deadline))).id != self._last_id:
                if answer.type == "publish":
                    deliveries.append(answer)
        except DatabaseError as error:
            raise ConnectionError(f"the server's id cannot be looked up: {error}") from error
        except ConnectError as error:
            # The caller says that it cannot be reached.
            raise ConnectionError(error.problem.removeprefix("cannot be reached: ")) from error
        except (ClientError, InvalidFrame) as error:
            raise ConnectionError(str(error)) from error
        if answer.type == "error":
            problem = f"the server refused: {printable(str(answer.reason))}"
            raise (Unavailable if answer.retryable else RefusedByServer)(problem)
        return Reply(answer, deliveries)

    def _connected(self, deadline: float) -> BlockingConnection:
        if self._connection is not None and not self._connection.is_open():
            self.close()
        if self._connection is None:
            self._connection = BlockingConnection.open(
                self._url, token=self._sign, deadline=deadline
            )
        return self._connection

    def _sign(self) -> str:
        return sign_worker(self._server_id(), self.purpose)

    def close(self) -> None:
        """See ``Connection.close``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
