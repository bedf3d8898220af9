"""The reason why a peer refuses the handshake, as far as it can be determined."""

from urllib.parse import parse_qs, urlsplit, urlunsplit

from dwsps_channels.client import ClientError, Refused, open_connection
from dwsps_channels.peering.outbound.config import PeerConfig

TOO_MANY = 429

OPEN_TIMEOUT = 5.0


async def reason_of(refused: Refused, peer: PeerConfig) -> str:
    """Return the reason why ``peer`` refused. Takes up to 5 s.

    Servers answer 403 to a false secret, and to a path at which there is no websocket as well. So on 401 and 403 it
    connects again, without the secret: a server of ours accepts connections that have none.
    """
    match refused.status:
        case 401 | 403 if not brings_secret(peer):
            return f"refused (HTTP {refused.status}): we have no secret for it"
        case 401 | 403 if await _lets_in_anybody(peer):
            return (
                f"refused (HTTP {refused.status}): the other side has another secret, or its row for this server "
                "is disabled or without 'accept from it'"
            )
        case 401 | 403:
            return (
                f"refused (HTTP {refused.status}), and without a secret as well: is the path right? Or does a proxy "
                "reject everybody?"
            )
        case 404:
            return "refused (HTTP 404): no websocket at that path"
        case 429:
            return "refused (HTTP 429): too many false secrets came from this address; try again in a minute"
    return refused.problem


def brings_secret(peer: PeerConfig) -> bool:
    """Return whether connections to ``peer`` have a secret, in the header or in the URL."""
    return bool(peer.secret) or "token" in parse_qs(urlsplit(peer.url).query)


async def _lets_in_anybody(peer: PeerConfig) -> bool:
    try:
        async with open_connection(_without_token(peer.url), open_timeout=OPEN_TIMEOUT):
            return True
    except (ClientError, ValueError):
        return False


def _without_token(url: str) -> str:
    parts = urlsplit(url)
    kept = [part for part in parts.query.split("&") if part.partition("=")[0] != "token"]
    return urlunsplit(parts._replace(query="&".join(kept)))
