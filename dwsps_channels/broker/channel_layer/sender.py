"""Publishing to a ``ChannelLayerBroker`` from a process that is no member of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.broker.channel_layer.blocking import group_send
from dwsps_channels.broker.channel_layer.gossip import OUTSIDE
from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.publication import Publication

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer


class ChannelLayerSender:
    """Sends to the group of a ``ChannelLayerBroker``, and receives nothing. It blocks; for one caller at a time."""

    def __init__(self, make_layer: "Callable[[], BaseChannelLayer]", *, group: str) -> None:
        self._make_layer = make_layer
        self._group = group
        self._name = OUTSIDE + uuid4().hex
        self._number = 0

    def publish(self, publication: Publication, deadline: float, key: str = "") -> SendResult:
        """Have every process deliver ``publication``. A layer remembers no keys: ``key`` has no effect.

        Raises:
            TimeoutError: not before the deadline, a time of ``time.monotonic``.
            ConnectionError: the layer did not take it. The text says why.
        """
        batch = Batch(self._name, self._number, [publication])
        # Never used again, even if sending fails: it may have arrived nevertheless.
        self._number += 1
        try:
            group_send(self._make_layer, self._group, batch.message(), deadline)
        except TimeoutError:
            raise
        except Exception as error:
            problem = str(error) or type(error).__name__
            raise ConnectionError(f"the channel layer did not take it: {problem}") from error
        return SendResult()

    def close(self) -> None:
        """Do nothing: each message has a layer of its own."""
