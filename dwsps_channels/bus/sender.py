"""Hands publications to the processes of a server, for a process that is none of them."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from dwsps_channels.bus.batch import Batch
from dwsps_channels.bus.layers import close_layer
from dwsps_channels.core.errors import Unavailable
from dwsps_channels.core.publication import Publication

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

SEND_TIMEOUT: Final = 5.0


class ChannelLayerSender:
    """Sends to the group of a ``ChannelLayerBus``, and receives nothing. For one event loop."""

    def __init__(self, make_layer: "Callable[[], BaseChannelLayer]", *, group: str) -> None:
        self._make_layer = make_layer
        self._group = group
        self._name = f"sender:{uuid4().hex}"
        self._number = 0
        self._layer: BaseChannelLayer | None = None
        # One after the other: the order is the callers'.
        self._lock = asyncio.Lock()

    async def publish(self, publication: Publication) -> None:
        """Have every process deliver ``publication``.

        Raises:
            Unavailable: the layer did not take it.
        """
        async with self._lock:
            batch = Batch(self._name, self._number, [publication])
            # Never used again, even where sending fails: it may have arrived nevertheless.
            self._number += 1
            try:
                if self._layer is None:
                    self._layer = self._make_layer()
                async with asyncio.timeout(SEND_TIMEOUT):
                    await self._layer.group_send(self._group, batch.message())
            except Exception as error:
                raise Unavailable(
                    f"the server's processes could not be told: {str(error) or 'no answer'}"
                ) from error

    async def close(self) -> None:
        """Close the layer's connections."""
        layer, self._layer = self._layer, None
        if layer is not None:
            await close_layer(layer, None)
