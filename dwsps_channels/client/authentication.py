"""The client's token on one connection after another: sent in time, and renewed before it expires."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from itertools import count

from dwsps_channels.client.address import Address
from dwsps_channels.client.calls import Call
from dwsps_channels.client.connection import Token, ask_token
from dwsps_channels.client.errors import (
    CallError,
    ConnectionClosed,
    NoToken,
    ServerError,
)
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.futures import fail, resolve
from dwsps_channels.client.messages import Incoming, to_json
from dwsps_channels.protocol.close_codes import CloseCode

logger = logging.getLogger("dwsps_channels.client")


class Authentication:
    """Gives the token to each connection, with the handshake or as the first frame, and renews it before it expires."""

    def __init__(
        self,
        token: Token | None,
        address: Address,
        *,
        in_frame: bool,
        timeout: float,
        delay: Callable[[int], float],
    ) -> None:
        """Take the token, or the function that gives it.

        Args:
            in_frame: the token is sent as the first frame; otherwise it comes with the handshake.
            timeout: seconds that the token function may take.
            delay: seconds to wait after the first failure (0), the second in a row, …
        """
        self._token = token
        self._address = address
        self._in_frame = in_frame
        self._timeout = timeout
        self._delay = delay
        self._next: str | None = None  # the token for the next connection's first frame
        self._authenticated_at = 0.0  # by the loop's clock
        self._renewing: Exchange | None = (
            None  # the connection whose token is renewed, or may not be any more
        )

    async def prepare(self) -> str | None:
        """Get the token for the next connection; return it if it belongs into the handshake.

        Raises:
            NoToken: the token function failed.
        """
        token = await self._ask()
        self._next = token if self._in_frame else None
        return None if self._in_frame else token

    def begin(self, exchange: Exchange, authenticated: Callable[[], None]) -> None:
        """Authenticate on a new connection; call ``authenticated`` when everything else may be sent.

        A refusal ends the connection: ``ConnectionClosed``, with 4001, is raised where its frame is handled.
        """
        self._note_authenticated()
        token, self._next = self._next, None
        if token is None:
            authenticated()
            return
        attempts = count()

        def send() -> None:
            _send(exchange, token, done, refused)

        def done(_: Incoming) -> None:
            self._note_authenticated()
            authenticated()

        def refused(error: CallError) -> None:
            if error.retryable:
                logger.warning("the server postponed the token: %s", error)
                exchange.call_later(self._delay(next(attempts)), send)
            elif isinstance(error, ServerError):
                raise ConnectionClosed(CloseCode.UNAUTHORIZED, error.reason, by_server=True)

        send()

    def renew(self, exchange: Exchange, expires_in: float) -> None:
        """Send another token, because the connection's own expires in so many seconds.

        Half of its life is waited for: a token of a few seconds is not to be renewed without pause.
        """
        if self._renewing is exchange:
            return
        if callable(self._token):
            self._renewing = exchange
            lived = asyncio.get_running_loop().time() - self._authenticated_at
            exchange.run(self._renew(exchange, max(0.0, (expires_in - lived) / 2)))
        else:
            logger.warning("the token expires soon, and only a token function could renew it")

    async def _renew(self, exchange: Exchange, delay: float) -> None:
        await asyncio.sleep(delay)
        for attempt in count():
            try:
                token = await self._ask()
                if token is None:
                    return  # the user has logged out: the server ends the connection
                await self._authenticate(exchange, token)
            except (NoToken, CallError) as error:
                if not isinstance(error, NoToken) and not error.retryable:
                    # The connection stays as it is, until the server ends it.
                    logger.error("the server refused another token: %s", error)
                    return
                logger.warning("the token could not be renewed: %s", error)
            else:
                return
            await asyncio.sleep(self._delay(attempt))

    async def _authenticate(self, exchange: Exchange, token: str) -> None:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Incoming) -> None:
            self._note_authenticated()  # at once: the new token's own end may be announced right behind the ack
            resolve(answered)

        _send(exchange, token, done, partial(fail, answered))
        await answered

    def _note_authenticated(self) -> None:
        self._renewing = None
        self._authenticated_at = asyncio.get_running_loop().time()

    async def _ask(self) -> str | None:
        """Return a token; ``None``: it is empty, which stands for none."""
        if self._token is None:
            return None
        try:
            async with asyncio.timeout(self._timeout):
                return await ask_token(self._token, self._address) or None
        except TimeoutError:
            problem = f"the token function did not answer within {self._timeout:g} s"
            raise NoToken(self._address.shown, problem) from None


def _send(
    exchange: Exchange,
    token: str,
    done: Callable[[Incoming], None],
    refused: Callable[[CallError], None],
) -> None:
    call = Call("authenticate", "", done, refused, lost=lambda _: None)
    exchange.send(call, b',"token":%s' % to_json(token))
