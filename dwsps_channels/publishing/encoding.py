"""Messages of ``publish`` as they are sent: checked, and as JSON."""

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from msgspec import Raw

from dwsps_channels.conf import conf
from dwsps_channels.exceptions import InvalidKey, InvalidPayload
from dwsps_channels.protocol.depth import is_deeper
from dwsps_channels.protocol.errors import InvalidTopic, MessageTooDeep, MessageTooLarge
from dwsps_channels.protocol.messages import MAX_KEY
from dwsps_channels.protocol.surrogates import is_text
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.publisher import OutgoingMessage


def encode(topic: str, message: Any, key: str | None) -> OutgoingMessage:
    """Encode the arguments of ``publish``.

    Raises:
        InvalidTopic, InvalidPayload, InvalidKey, MessageTooLarge, MessageTooDeep: one of them cannot be sent.
    """
    if not isinstance(topic, str):
        raise InvalidTopic(repr(topic), "is not a string")
    check(topic)
    try:
        text = json.dumps(
            message,
            cls=DjangoJSONEncoder,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        # A lone surrogate has no UTF-8, but an escape that JSON has as well.
        data = text.encode("utf-8", "backslashreplace")
    except RecursionError:
        raise MessageTooDeep(conf.MAX_MESSAGE_DEPTH) from None
    except (TypeError, ValueError) as error:
        raise InvalidPayload(f"'message' cannot be made JSON: {error}") from error
    check_limits(data)
    return OutgoingMessage(topic, Raw(data), now(), _checked(key))


def check_limits(data: bytes) -> None:
    """Check the JSON of a message against the settings.

    Raises:
        MessageTooLarge, MessageTooDeep: it is above a limit.
    """
    if len(data) > conf.MAX_MESSAGE_BYTES:
        raise MessageTooLarge(len(data), conf.MAX_MESSAGE_BYTES)
    if is_deeper(data, conf.MAX_MESSAGE_DEPTH):
        raise MessageTooDeep(conf.MAX_MESSAGE_DEPTH)


def _checked(key: str | None) -> str:
    if key is None:
        return ""
    # Callers are not all type-checked.
    is_key = isinstance(key, str) and 1 <= len(key) <= MAX_KEY and is_text(key)  # type: ignore[redundant-expr]
    if not is_key:
        raise InvalidKey(f"'key' must be a string of 1 to {MAX_KEY} characters")
    return key
