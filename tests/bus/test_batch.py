import pytest
from channels_redis.serializers import registry

from dwsps_channels.bus.batch import Batch
from tests.bus.contract import PAYLOADS, publication


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_comes_through_a_layers_serializer_byte_for_byte(serializer: str) -> None:
    sent = Batch("a", 2**40, [publication(payload, topic="☃.é") for payload in PAYLOADS])
    layer = registry.get_serializer(serializer)
    received = Batch.from_message(layer.deserialize(layer.serialize(sent.message())))
    assert received == sent
    assert [bytes(each.message) for each in received.publications] == PAYLOADS


def test_fields_of_a_later_version_are_ignored() -> None:
    message = Batch("a", 0, []).message() | {"later": 1}
    message["batch"] = (
        '[{"topic":"a","message":1,"timestamp":"","from_peer_server":true,"later":1}]'
    )
    (received,) = Batch.from_message(message).publications
    assert received.from_peer_server


@pytest.mark.parametrize("message", [None, [], "text", 1])
def test_what_is_not_even_a_dict_is_no_batch(message: object) -> None:
    with pytest.raises(ValueError, match="Expected"):
        Batch.from_message(message)
