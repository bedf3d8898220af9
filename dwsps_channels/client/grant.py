"""A grant: the server's signed permission to subscribe to a topic."""

import asyncio
from typing import Any, Final, Self

from dwsps_channels.client.errors import InvalidCall, NoGrant
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.messages import to_json
from dwsps_channels.client.text_source import TextSource, ask
from dwsps_channels.protocol.messages import MAX_GRANT

# Bytes of a grant in a resume, beside its own and its topic's: quotes, colon and commas.
GRANT_OVERHEAD: Final = 6


class Grant:
    """The grant of one subscription. If it is a function, it is called for each request that brings it."""

    def __init__(self, topic: str, source: TextSource) -> None:
        self._topic = topic
        self._source = source
        self._answer = ""
        # The connection for which the function answered; None: the answer was sent, and the next request needs another.
        self._exchange: Exchange | None = None

    @classmethod
    def checked(cls, topic: str, source: Any) -> Self | None:
        """Return the grant that a caller gives; ``None``: there is no grant.

        Raises:
            InvalidCall: it can be neither a grant nor a function.
        """
        if source is None or source == "":
            return None
        if not callable(source) and not _can_be_sent(source):
            reason = f"a grant is a text of at most {MAX_GRANT} characters, or a function"
            raise InvalidCall("subscribe", topic, "invalid_message", reason)
        return cls(topic, source)

    def is_same(self, other: "Grant | None") -> bool:
        """Return whether both come from the same text or function."""
        return other is not None and self._source == other._source

    def is_ready(self, exchange: Exchange) -> bool:
        """Return whether there is a text to send on this connection: if not, the function has to be asked first."""
        return not callable(self._source) or self._exchange is exchange

    @property
    def text(self) -> str:
        """The text to send. An empty one stands for no grant: the policy decides."""
        return self._answer if callable(self._source) else self._source

    def sent(self) -> None:
        """Note that a request has brought the text: a function is asked again for the next one."""
        self._exchange = None

    async def ask(self, exchange: Exchange, timeout: float) -> None:
        """Ask the function for the next text on this connection, for at most ``timeout`` seconds.

        Raises:
            NoGrant: it raised, took longer, or returned what can be no grant.
        """
        try:
            async with asyncio.timeout(timeout):
                answer = await ask(self._source)
        except Exception as error:
            problem = f"{type(error).__name__} from the function that gives it"
            raise NoGrant("subscribe", self._topic, f"no grant: {problem}") from error
        if not isinstance(answer, str) or not _can_be_sent(answer):
            problem = f"the function returned no text of at most {MAX_GRANT} characters"
            raise NoGrant("subscribe", self._topic, f"no grant: {problem}")
        self._answer, self._exchange = answer, exchange


def grant_payload(grant: Grant | None) -> bytes:
    """Return the field of a subscribe, if there is a grant."""
    return b',"grant":%s' % to_json(grant.text) if grant is not None and grant.text else b""


def _can_be_sent(text: object) -> bool:
    if not isinstance(text, str) or len(text) > MAX_GRANT:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
