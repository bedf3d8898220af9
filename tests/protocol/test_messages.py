import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from dwsps_channels.protocol.errors import (
    InvalidJSON,
    InvalidMessage,
    MessageTooDeep,
    MessageTooLarge,
    RateLimited,
    WireError,
)
from dwsps_channels.protocol.messages import (
    Ack,
    Authenticate,
    Publish,
    Resume,
    Subscribe,
    Unsubscribe,
    decode,
    encode,
    error_frame,
    subject_of,
    subject_of_excerpt,
)
from tests.core.oracle import answer, has_duplicate_names
from tests.core.recording import (
    is_error,
    publish,
    resume,
    subscribe,
    unsubscribe,
    without_timestamp,
)
from tests.core.strategies import frames, json_texts

LIMIT = 64 * 1024
DEPTH = 128


def error_for(frame: str | bytes) -> dict[str, Any]:
    """Return the error that a client gets for ``frame``."""
    told: dict[str, Any] = json.loads(error_frame(RateLimited(1), subject_of(frame)).data)
    return without_timestamp(told)


def test_each_request_is_decoded() -> None:
    assert decode(subscribe("news", id=7), LIMIT, DEPTH) == Subscribe("news", id=7)
    assert decode(unsubscribe("news", id="seven"), LIMIT, DEPTH) == Unsubscribe("news", id="seven")
    request = decode(
        publish("news", [1], timestamp="2020-01-21T17:03:13Z", fromPeerServer=True), LIMIT, DEPTH
    )
    assert isinstance(request, Publish)
    assert bytes(request.message) == b"[1]"
    assert (request.topic, request.timestamp, request.id, request.from_peer_server) == (
        "news",
        "2020-01-21T17:03:13Z",
        UNSET,
        True,
    )


def test_requests_of_recovery_are_decoded() -> None:
    assert decode(subscribe("news", since="log:7"), LIMIT, DEPTH) == Subscribe(
        "news", since="log:7"
    )
    assert decode(subscribe("news", last=0), LIMIT, DEPTH) == Subscribe("news", last=0)
    assert decode(publish("news", key="k"), LIMIT, DEPTH).key == "k"
    assert decode(publish("news"), LIMIT, DEPTH).key == ""
    assert decode(resume(["news", "", "news"], since="", id=3), LIMIT, DEPTH) == Resume(
        since="", topics=["news", "", "news"], id=3
    )


def test_requests_with_credentials_are_decoded() -> None:
    assert decode(subscribe("news", grant="g"), LIMIT, DEPTH) == Subscribe("news", grant="g")
    assert decode(
        resume(["news"], since="", grants={"news": "g", "x": "h"}), LIMIT, DEPTH
    ) == Resume(since="", topics=["news"], grants={"news": "g", "x": "h"})
    assert decode('{"type":"authenticate","token":"t","id":1}', LIMIT, DEPTH) == Authenticate(
        "t", id=1
    )


NO_TOKEN: list[Any] = ["", "x" * 8193, None, 1, ["x"], "\ud800"]
NO_GRANT: list[Any] = ["", "x" * 2049, None, 1, ["x"], "\ud800"]


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        *((subscribe("a", grant=grant), "grant") for grant in NO_GRANT),
        *((resume(["a"], since="", grants={"a": grant}), "grants") for grant in NO_GRANT),
        (resume(["a"], since="", grants=["g"]), "grants"),
        *((json.dumps({"type": "authenticate", "token": token}), "token") for token in NO_TOKEN),
        ('{"type":"authenticate"}', "token"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_credentials_that_cannot_be_name_the_field(frame: str, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame, LIMIT, DEPTH)

    assert caught.value.field == field
    assert caught.value.reason.startswith(f"'{field}' must be ")


def test_no_token_is_shown() -> None:
    frame = '{"type":"authenticate","token":"dwspst_secret","id":1}'

    assert "secret" not in repr(decode(frame, LIMIT, DEPTH))


def test_half_a_surrogate_pair_in_the_topic_of_a_grant_is_kept() -> None:
    frame = '{"type":"resume","since":"","topics":["a"],"grants":{"\\ud800":"g"}}'

    assert decode(frame, LIMIT, DEPTH).grants == {"\ud800": "g"}


NO_SINCE: list[Any] = ["x" * 129, None, 1, ["log:1"], {}]
NO_LAST: list[Any] = [-1, 1.0, 1.5, "1", None, True, 2**53]
NO_KEY: list[Any] = ["", "x" * 65, None, 1, ["x"], "\ud800"]
NO_TOPICS: list[Any] = ["a", None, {"a": 1}, [1], ["a", None], ["a", ["b"]], ["a", "\ud800"]]


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        *((subscribe("a", since=since), "since") for since in NO_SINCE),
        *((subscribe("a", last=last), "last") for last in NO_LAST),
        (subscribe("a", since="log:1", last=1), "last"),
        (subscribe("a", since="", last=0), "last"),
        *((publish("a", key=key), "key") for key in NO_KEY),
        *((resume(["a"], since=since), "since") for since in NO_SINCE),
        ('{"type":"resume","topics":["a"]}', "since"),
        ('{"type":"resume","since":"log:1"}', "topics"),
        *((resume(topics, since="log:1"), "topics") for topics in NO_TOPICS),
        (resume(["a"], since="log:1", id=""), "id"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_requests_of_recovery_that_cannot_be_name_the_field(frame: str, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame, LIMIT, DEPTH)

    assert caught.value.field == field
    assert caught.value.reason.startswith(f"'{field}' must be ")


def test_an_error_about_a_resume_tells_its_action_and_id() -> None:
    assert is_error(
        error_for(resume("a", since="log:1", id=7)), "rate_limited", action="resume", id=7
    )


def test_the_order_of_the_fields_does_not_matter() -> None:
    assert decode('{"id":1,"topic":"news","type":"subscribe"}', LIMIT, DEPTH) == Subscribe(
        "news", id=1
    )


def test_text_and_binary_are_the_same() -> None:
    assert decode(subscribe("☃"), LIMIT, DEPTH) == decode(subscribe("☃").encode(), LIMIT, DEPTH)


@settings(max_examples=30)  # all the way through a session it is tested at length
@given(json_texts(), st.booleans())
def test_a_message_is_kept_byte_for_byte(text: str, binary: bool) -> None:
    frame = f'{{"type":"publish","topic":"a","message": {text} }}'

    request = decode(frame.encode() if binary else frame, LIMIT, DEPTH)

    assert isinstance(request, Publish)
    assert bytes(request.message) == text.encode()


@pytest.mark.parametrize(
    "timestamp", ["2020-01-21T17:03:13Z\n", "٢٠٢٠-01-21T17:03:13Z", "yesterday", "", 0, None]
)
def test_a_publishers_timestamp_must_be_rfc_3339(timestamp: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(publish("a", timestamp=timestamp), LIMIT, DEPTH)

    assert caught.value.field == "timestamp"


@pytest.mark.parametrize("id", [1, 0, -1, 2**53 - 1, 1 - 2**53, "x", "x" * 64, "☃", "😀" * 64, "1"])
def test_an_id_is_the_clients_own(id: int | str) -> None:
    assert decode(subscribe("a", id=id), LIMIT, DEPTH).id == id
    assert error_for(subscribe("a", id=id))["id"] == id


@pytest.mark.parametrize("id", [2**53, -(2**53), 2**64, 1.5, 1.0, True, None, "", "x" * 65, [], {}])
def test_what_cannot_be_an_id_is_refused_and_not_echoed(id: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(subscribe("a", id=id), LIMIT, DEPTH)

    assert caught.value.field == "id"
    assert "id" not in error_for(subscribe("a", id=id))


@pytest.mark.parametrize(
    "digits", ["9" * 5000, "-" + "9" * 60_000, "1e400", "1" + "0" * 400 + ".0"]
)
def test_an_id_beyond_what_python_reads_is_refused_as_any_other(digits: str) -> None:
    frame = f'{{"type":"subscribe","topic":"a","id":{digits}}}'

    with pytest.raises(InvalidMessage):
        decode(frame, LIMIT, DEPTH)
    assert is_error(error_for(frame), "rate_limited", action="subscribe", topic="a")


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ("null", None),
        ("[]", None),
        ("1", None),
        ('"subscribe"', None),
        ("{}", "type"),
        ('{"type":"shout","topic":"a"}', "type"),
        ('{"type":null,"topic":"a"}', "type"),
        ('{"type":"ack","topic":"a"}', "type"),
        ('{"type":"`$.topic`","topic":"a"}', "type"),
        ('{"type":"subscribe"}', "topic"),
        ('{"type":"subscribe","topic":null}', "topic"),
        ('{"type":"subscribe","topic":["a"]}', "topic"),
        ('{"type":"publish","topic":"a"}', "message"),
        ('{"type":"publish","topic":"a","message":1,"fromPeerServer":"true"}', "fromPeerServer"),
    ],
)
def test_the_error_names_the_field_at_fault(frame: str, field: str | None) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame, LIMIT, DEPTH)

    assert caught.value.field == field


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "{",
        "hello",
        '{"type":"subscribe","topic":"a"}}',
        '{"type":"subscribe","topic":"a",}',
        '{"type":"publish","topic":"a","message":NaN}',
        '{"type":"publish","topic":"a","message":-Infinity}',
        '{"type":"publish","topic":"a","message":01}',
        '{"type":"publish","topic":"a","message":1.}',
        '{"type":"publish","topic":"a","message":[1,]}',
        '{"type":"publish","topic":"a","message":"\t"}',
        '{"type":"publish","topic":"a","message":"\\x41"}',
        '{"type":"publish","topic":"a","message":"\\ud80"}',
        '{"type":"publish","topic":"a","message":"\\ud800","id":NaN}',
        '{"type":"publish","topic":"a","message":\\ud800}',
        '{"type":"publish","topic":"a","message":"\\ud800\t"}',
        '{"type":"publish","topic":"a","message":"\ud800"}',
        '\ufeff{"type":"subscribe","topic":"a"}',
        b'{"type":"publish","topic":"a","message":"\xff"}',
        b'{"type":"publish","topic":"a","message":"\xed\xa0\x80"}',
        b'{"type":"subscribe","topic":"a","ignored":"\xc0\xaf"}',
        '{"type":"subscribe","topic":"a"}'.encode("utf-16"),
    ],
)
def test_what_is_not_json_is_refused_even_in_a_part_that_is_not_read(frame: str | bytes) -> None:
    with pytest.raises(InvalidJSON):
        decode(frame, LIMIT, DEPTH)


@pytest.mark.parametrize(
    "frame",
    [
        "[" * LIMIT,
        '{"a":' * (LIMIT // 5),
        '{"type":"publish","topic":"a","message":' + "[" * 60_000,
        '{"type":"publish","topic":"a","message":' + "[" * 30_000 + "]" * 30_000 + "}",
        '{"type":"subscribe","topic":"a","ignored":' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
        '{"type":"subscribe","topic":' + "[" * 60_000,
        '{"type":"subscribe","topic":"a","id":' + "[" * 30_000 + "]" * 30_000 + "}",
    ],
)
def test_deep_nesting_is_refused(frame: str) -> None:
    with pytest.raises((InvalidJSON, InvalidMessage, MessageTooDeep)):
        decode(frame, LIMIT, DEPTH)
    error_for(frame)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")])
def test_a_message_may_be_nested_as_deeply_as_the_limit_says(
    opening: str, closing: str, binary: bool
) -> None:
    def nested(levels: int, field: str = "message") -> str | bytes:
        times = levels // 2 if opening.startswith("[{") else levels
        text = f'{{"type":"publish","topic":"a","message":1,"{field}":{opening * times}1{closing * times}}}'
        return text.encode() if binary else text

    assert isinstance(decode(nested(DEPTH), LIMIT, DEPTH), Publish)
    for field in ("message", "ignored"):
        with pytest.raises(MessageTooDeep) as caught:
            decode(nested(DEPTH + 2, field), LIMIT, DEPTH)
        assert caught.value.limit == DEPTH


def test_brackets_within_strings_do_not_count() -> None:
    assert isinstance(decode(publish("a", '"[{' * 1000), LIMIT, DEPTH), Publish)


@given(frames())
def test_a_frame_is_decoded_or_refused_with_an_error_of_the_wire(frame: str | bytes) -> None:
    try:
        decode(frame, LIMIT, DEPTH)
    except WireError as error:
        code = error.code
    else:
        code = "ack"

    expected = answer(frame)
    if expected == "invalid_json":
        # The fault that comes first is told: a field may be wrong before the text is.
        assert code in ("invalid_json", "invalid_message")
    elif expected in ("invalid_topic", "forbidden", "unauthorized"):
        assert code == "ack" or has_duplicate_names(frame)
    else:
        assert code == expected or has_duplicate_names(frame)


@pytest.mark.parametrize("character", ["x", "é", "☃", "😀"])
@pytest.mark.parametrize("binary", [False, True])
def test_the_limit_is_in_bytes_of_utf_8(character: str, binary: bool) -> None:
    text = subscribe("a", ignored="").replace('""', f'"{character * 100}"')
    frame: str | bytes = text.encode() if binary else text
    size = len(text.encode())

    assert decode(frame, size, DEPTH) == Subscribe("a")
    with pytest.raises(MessageTooLarge) as caught:
        decode(frame, size - 1, DEPTH)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)


def test_an_error_tells_what_can_be_told_of_the_request() -> None:
    assert is_error(
        error_for(subscribe("a..b", id=7)), "rate_limited", action="subscribe", topic="a..b", id=7
    )
    assert is_error(error_for('{"type":"shout","topic":5,"id":7}'), "rate_limited", id=7)
    assert is_error(error_for('{"topic":"a"}'), "rate_limited", topic="a")
    assert is_error(error_for("[7]"), "rate_limited")
    assert is_error(error_for(b"\xff"), "rate_limited")
    assert is_error(error_for("\ud800"), "rate_limited")


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        # Not JSON, but for its beginning or its end.
        ('{"type":"publish","id":7', "action"),
        ('{"type":"publish","id":7,"topic":"a","message":NaN}', "action id topic"),
        ('{"type":"publish","topic":"a","message":[1,],"id":7}', "action id topic"),
        ('{ "id" : 7 , "message" : "\t" }', "id"),
        # Not UTF-8, in one place.
        (b'{"type":"publish","topic":"a","message":"\xff","id":7}', "action id topic"),
        (b'{"type":"publish","topic":"\xff","message":"\xff","id":7}', "action id"),
        (
            b'{"type":"publish","topic":"a","message":{"a":["\xc3"]},"id":"\xff"}',
            "action topic",
        ),
        # Half a surrogate pair.
        ('{"type":"publish","topic":"\\ud800","message":1,"id":7}', "action id"),
        ('{"type":"publish","topic":"a","message":"\\ud800","id":"\\ud800"}', "action topic"),
        # Nested too deeply to be read.
        (
            '{"id":7,"type":"publish","topic":"a","message":' + "[" * 9000 + "]" * 9000 + "}",
            "action id topic",
        ),
        (
            '{"message":' + "[" * 9000 + "]" * 9000 + ',"type":"publish","topic":"a","id":7}',
            "action id topic",
        ),
        # Far too large.
        (
            f'{{"id":7,"type":"publish","message":"{"x" * 10**6}","topic":"a"}}',
            "action id topic",
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_error_tells_what_can_be_found_in_what_cannot_be_read(
    frame: str | bytes, told: str
) -> None:
    expected: dict[str, Any] = {"action": "publish", "topic": "a", "id": 7}
    fields = {name: expected[name] for name in told.split()}
    assert is_error(error_for(frame), "rate_limited", **fields)


# Half of a surrogate pair: JSON by its grammar.

LONE = [
    r'"\ud800"',
    r'"\udc00"',
    r'"\uDBFF\uD800\uDC00\udfff"',
    r'{"\udc00\ud800":["\ud83d\ude00","\\\\\ud83d","\\\\ud83d\\n\ud83d\\n"]}',
    r'"\\\\ud83d\ude00"',
    r'["\ud83d", "\u2603", "☃"]',
]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("message", LONE)
def test_half_a_surrogate_pair_is_taken_and_kept_as_it_is(message: str, binary: bool) -> None:
    text = f'{{"type":"publish","id":"x","topic":"a","message": {message} ,"ignored":"\\ud800"}}'
    request = decode(text.encode() if binary else text, LIMIT, DEPTH)
    assert isinstance(request, Publish)
    assert (bytes(request.message).decode(), request.topic, request.id) == (message, "a", "x")


def test_half_a_surrogate_pair_in_a_topic_is_there_to_be_refused() -> None:
    assert decode('{"type":"subscribe","topic":"a\\ud800b"}', LIMIT, DEPTH).topic == "a\ud800b"


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ('{"type":"subscribe","topic":"a","id":"\\ud800"}', "id"),
        ('{"type":"subscribe","topic":{"a":"\\ud800"}}', "topic"),
        ('{"type":"\\ud800","topic":"a"}', "type"),
        ('{"type":"publish","topic":"a","message":"\\ud800","timestamp":"\\ud800"}', "timestamp"),
    ],
)
def test_half_a_surrogate_pair_is_refused_where_it_cannot_be(frame: str, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame, LIMIT, DEPTH)
    assert caught.value.field == field


def test_a_topic_that_is_too_long_is_not_sent_back() -> None:
    assert error_for(subscribe("a" * 255))["topic"] == "a" * 255
    assert "topic" not in error_for(subscribe("a" * 256))


def test_an_error_stays_small_whatever_the_frame() -> None:
    for field in ("type", "topic", "id", "message", "timestamp", "fromPeerServer", "else"):
        frame = json.dumps({"type": "publish", "topic": "a", field: "x" * LIMIT})
        with pytest.raises(WireError) as caught:
            decode(frame, LIMIT - 1, DEPTH)

        assert len(error_frame(caught.value, subject_of(frame))) < 512


def test_an_error_without_a_request_has_no_request_fields() -> None:
    assert is_error(without_timestamp(json.loads(error_frame(RateLimited(1)).data)), "rate_limited")


def test_an_ack_has_an_id_only_where_there_was_one() -> None:
    ack = Ack(action="publish", timestamp="2020-01-21T17:03:13.625Z", topic="☃")

    assert encode(ack).text == (
        '{"type":"ack","action":"publish","timestamp":"2020-01-21T17:03:13.625Z","topic":"☃"}'
    )


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ('{"type":"publish","topic":"a","message":"xx', 'xx","id":5}', ("publish", "a", 5)),
        ('{ "id" : "\\u00e97" , "type" : "publish" , "topic', "x}} ", ("publish", UNSET, "é7")),
        ('{"message":{"id":1,"type":"subscribe","x', 'x"},"topic":"a.b"}\n', (UNSET, "a.b", UNSET)),
        # Within a string or another object it is not the message's.
        ('{"type":"publish","message":"xx', 'xx,\\"id\\":5}"}', ("publish", UNSET, UNSET)),
        ('{"type":"publish","message":{"a":"xx', 'xx","id":5}}', ("publish", UNSET, UNSET)),
        # What is there is not what it should be.
        ('{"type":"dance","topic":5,"message":"xx', 'xx","id":true}', (UNSET, UNSET, UNSET)),
        ("[[[[", "]]]]", (UNSET, UNSET, UNSET)),
        ("", "\xff", (UNSET, UNSET, UNSET)),
    ],
)
def test_the_subject_of_a_message_is_found_at_its_ends(
    head: str, tail: str, expected: tuple[object, ...]
) -> None:
    assert subject_of_excerpt(head.encode(), tail.encode("latin-1")) == expected
