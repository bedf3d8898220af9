import pytest
from channels_redis.serializers import registry

from dwsps_channels.broker.channel_layer.batch import Batch
from tests.broker.contract import PAYLOADS, publication


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_comes_through_a_layers_serializer_byte_for_byte(serializer: str) -> None:
    sent = Batch("a", 2**40, [publication(payload, topic="☃.é") for payload in PAYLOADS])
    layer = registry.get_serializer(serializer)
    received = Batch.from_message(layer.deserialize(layer.serialize(sent.message())))
    assert received == sent
    assert [bytes(each.message) for each in received.publications if each] == PAYLOADS


def test_fields_of_a_later_version_are_ignored() -> None:
    message = Batch("a", 0, []).message() | {"later": 1}
    message["batch"] = (
        '[{"topic":"a","message":1,"timestamp":"","from_peer_server":true,"later":1}]'
    )
    (received,) = Batch.from_message(message).publications
    assert received is not None
    assert received.from_peer_server


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="nested too deeply"),
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, id="objects"),
        pytest.param("NaN", id="no JSON"),
    ],
)
def test_a_message_that_cannot_be_read_costs_no_other(unreadable: str) -> None:
    payloads = [b"1", rb'"],[{\\\"}"', unreadable.encode(), b'{"a":["]"]}', b'"\\\\"']
    message = Batch("a", 7, [publication(payload) for payload in payloads]).message()
    received = Batch.from_message(message)
    assert (received.sender, received.first) == ("a", 7)
    assert [each and bytes(each.message) for each in received.publications] == [
        None if payload == unreadable.encode() else payload for payload in payloads
    ]
    assert received.problem


def test_what_is_no_publication_costs_no_other() -> None:
    message = Batch("a", 0, [publication(1), publication(2)]).message()
    message["batch"] = message["batch"].replace('"message":1', '"massage":1')
    first, second = Batch.from_message(message).publications
    assert first is None
    assert second is not None
    assert bytes(second.message) == b"2"


@pytest.mark.parametrize("message", [None, [], "text", 1])
def test_what_is_not_even_a_dict_is_no_batch(message: object) -> None:
    with pytest.raises(ValueError, match="Expected"):
        Batch.from_message(message)
