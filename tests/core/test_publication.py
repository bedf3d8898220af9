from msgspec import Raw

from dwsps_channels.core.publication import Publication


def test_its_frame_is_the_message_with_the_context() -> None:
    publication = Publication(
        topic="news.uk", message=Raw(b'{"a" : 1}'), timestamp="2020-01-21T17:03:13.625Z"
    )

    assert publication.frame("news").data == (
        b'{"type":"publish","timestamp":"2020-01-21T17:03:13.625Z","topic":"news.uk",'
        b'"message":{"a" : 1},"context":"news"}'
    )


def test_what_came_from_a_peer_says_so() -> None:
    publication = Publication(
        topic="news",
        message=Raw(b"null"),
        timestamp="2020-01-21T17:03:13.625Z",
        from_peer_server=True,
    )

    assert publication.frame("news").data == (
        b'{"type":"publish","timestamp":"2020-01-21T17:03:13.625Z","topic":"news",'
        b'"message":null,"fromPeerServer":true,"context":"news"}'
    )
