import pytest

from dwsps_channels.protocol import errors

EVERY_KIND: list[tuple[errors.WireError, str, bool, str]] = [
    (
        errors.InvalidJSON("trailing characters"),
        "invalid_json",
        False,
        "not JSON: trailing characters",
    ),
    (
        errors.InvalidMessage("topic", "a string"),
        "invalid_message",
        False,
        "'topic' must be a string",
    ),
    (
        errors.InvalidMessage(None, "a JSON object"),
        "invalid_message",
        False,
        "a message must be a JSON object",
    ),
    (errors.InvalidTopic("", "is empty"), "invalid_topic", False, "the topic is empty"),
    (
        errors.MessageTooLarge(9, 8),
        "message_too_large",
        False,
        "the message has 9 bytes, the limit is 8",
    ),
    (
        errors.MessageTooDeep(8),
        "message_too_deep",
        False,
        "the message is nested more than 8 levels deep",
    ),
    (
        errors.TooManySubscriptions(8),
        "too_many_subscriptions",
        False,
        "a connection may have 8 subscriptions",
    ),
    (
        errors.TooManySubscriptions(8, "bytes of topics"),
        "too_many_subscriptions",
        False,
        "a connection may have 8 bytes of topics",
    ),
    (errors.Forbidden("publish to 'a'"), "forbidden", False, "not allowed to publish to 'a'"),
    (
        errors.Forbidden("publish to 'a'", "it is closed"),
        "forbidden",
        False,
        "not allowed to publish to 'a': it is closed",
    ),
    (errors.Unauthorized("the token expired"), "unauthorized", False, "the token expired"),
    (errors.RateLimited(2.5), "rate_limited", True, "a connection may send 2.5 messages a second"),
    (
        errors.RateLimited(5, "bytes"),
        "rate_limited",
        True,
        "a connection may send 5 bytes a second",
    ),
    (
        errors.Unavailable("the server is going away"),
        "unavailable",
        True,
        "the server is going away",
    ),
]


@pytest.mark.parametrize(("error", "code", "retryable", "reason"), EVERY_KIND)
def test_an_error_has_its_code_and_a_reason_from_its_fields(
    error: errors.WireError, code: str, retryable: bool, reason: str
) -> None:
    assert (error.code, error.retryable, error.reason) == (code, retryable, reason)


def test_each_kind_is_named_here() -> None:
    ours = {
        kind for kind in errors.WireError.__subclasses__() if kind.__module__ == errors.__name__
    }

    assert {type(error) for error, *_ in EVERY_KIND} == ours


def test_what_a_caller_gave_wrongly_is_a_value_error_too() -> None:
    assert issubclass(errors.InvalidTopic, ValueError)
    assert issubclass(errors.MessageTooLarge, ValueError)
