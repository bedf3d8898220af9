"""The choice of a publisher."""

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.capturing import capture
from dwsps_channels.conf import conf
from dwsps_channels.publishing.capturing import CapturingPublisher
from dwsps_channels.publishing.local import LocalPublisher, OnRefusal
from dwsps_channels.publishing.publisher import Publisher
from dwsps_channels.publishing.remote import RemotePublisher, remote_publisher
from dwsps_channels.server import runtime


def choose_publisher(
    on_refusal: OnRefusal | None = None,
) -> CapturingPublisher | LocalPublisher | RemotePublisher:
    """Return the publisher for this process as it is now: a list in tests, the server in this process, or a way to it.

    See ``LocalPublisher`` for ``on_refusal``.
    """
    server = runtime.current()
    captured = capture(serving=server is not None)
    if captured is not None:
        return CapturingPublisher(captured)
    if server is not None:
        return LocalPublisher(server, on_refusal)
    return remote_publisher(configured_backend(), conf.SERVER_URL)


async def serving_publisher() -> Publisher:
    """Return the publisher of the server in this process, which starts if it has not."""
    return LocalPublisher(await runtime.obtain())


async def remote_publisher_at(url: str) -> Publisher:
    """Return the way to the server of other processes: through the broker if it joins processes, else the websocket ``url``."""
    return remote_publisher(configured_backend(), url)
