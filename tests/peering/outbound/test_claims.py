"""Claims: which link may lead to which server."""

from dwsps_channels.peering.outbound.claims import ServerClaims
from dwsps_channels.peering.outbound.config import PeerConfig

OWN = "e" * 32


def peer(id: int, name: str) -> PeerConfig:
    return PeerConfig(id, name, f"ws://{name}.example/", "secret")


ONE, TWO = peer(1, "one"), peer(2, "two")


def test_no_link_may_lead_to_this_server_itself() -> None:
    assert ServerClaims(OWN).claim(ONE, OWN) == "leads to this server itself"


def test_the_first_link_to_a_server_keeps_it_until_it_is_released() -> None:
    claims = ServerClaims(OWN)
    assert claims.claim(ONE, "a") is None
    assert claims.claim(ONE, "a") is None
    assert claims.claim(TWO, "a") == "leads to the same server as 'one'"
    assert claims.claim(TWO, "b") is None
    claims.release(ONE)
    assert claims.claim(TWO, "a") is None


def test_a_link_that_leads_elsewhere_gives_back_the_server_that_it_had() -> None:
    claims = ServerClaims(OWN)
    assert claims.claim(ONE, "a") is None
    assert claims.claim(ONE, "b") is None
    assert claims.claim(TWO, "a") is None


def test_a_rejected_claim_leaves_the_server_that_the_link_has() -> None:
    claims = ServerClaims(OWN)
    assert claims.claim(ONE, "a") is None
    assert claims.claim(TWO, "b") is None
    assert claims.claim(ONE, "b") == "leads to the same server as 'two'"
    assert claims.claim(TWO, "a") == "leads to the same server as 'one'"


def test_a_peer_may_swap_its_name_with_another_one() -> None:
    claims = ServerClaims(OWN)
    assert claims.claim(ONE, "a") is None
    assert claims.claim(peer(2, "one"), "b") is None
    claims.release(ONE)
    assert claims.claim(peer(1, "two"), "b") == "leads to the same server as 'one'"
