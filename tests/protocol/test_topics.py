import pytest
from hypothesis import given

from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.topics import check, contexts
from tests.core.oracle import is_topic
from tests.core.strategies import topic_like, topics


def fits(topic: str) -> bool:
    try:
        check(topic)
    except InvalidTopic:
        return False
    return True


@given(topic_like())
def test_the_grammar_is_that_of_the_protocol(text: str) -> None:
    assert fits(text) == is_topic(text)


@pytest.mark.parametrize(
    "topic",
    [
        "news",
        "news.uk.london",
        "__proto__",
        "__proto__.constructor",
        "length",
        "1",
        "☃",
        "😀",
        "e\u0301",
        "a/b",
        "*",
        "$SYS",
        "$dwspsx",
        "a.$dwsps",
        "a" * 255,
        "é" * 127,
        ".".join("a" * 32),
    ],
)
def test_an_ordinary_topic_is_taken(topic: str) -> None:
    check(topic)


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("", "is empty"),
        (".", "has an empty level"),
        (".news", "has an empty level"),
        ("news.", "has an empty level"),
        ("news..uk", "has an empty level"),
        ("a" * 256, "is longer than 255 bytes of UTF-8"),
        ("é" * 128, "is longer than 255 bytes of UTF-8"),
        ("😀" * 64, "is longer than 255 bytes of UTF-8"),
        (".".join("a" * 33), "has more than 32 levels"),
        ("a b", "has a space, a control character or a lone surrogate"),
        ("news\n", "has a space, a control character or a lone surrogate"),
        ("a\x00", "has a space, a control character or a lone surrogate"),
        ("a\x7f", "has a space, a control character or a lone surrogate"),
        ("a\x85", "has a space, a control character or a lone surrogate"),
        ("a\u00a0b", "has a space, a control character or a lone surrogate"),
        ("a\u2028b", "has a space, a control character or a lone surrogate"),
        ("a\u3000b", "has a space, a control character or a lone surrogate"),
        ("$dwsps", "is reserved: '$dwsps' and all below it is the server's"),
        ("$dwsps.notice", "is reserved: '$dwsps' and all below it is the server's"),
        ("$dwsps.a.b", "is reserved: '$dwsps' and all below it is the server's"),
        ("a\ud800", "has a space, a control character or a lone surrogate"),
    ],
)
def test_what_is_no_topic_is_refused_with_the_reason(topic: str, problem: str) -> None:
    with pytest.raises(InvalidTopic) as caught:
        check(topic)

    assert caught.value.topic == topic
    assert caught.value.problem == problem
    assert caught.value.reason == f"the topic {problem}"


@given(topics())
def test_contexts_are_the_topic_and_its_ancestors_deepest_first(topic: str) -> None:
    levels = topic.split(".")

    assert contexts(topic) == tuple(".".join(levels[:n]) for n in range(len(levels), 0, -1))


def test_contexts_of_no_topic_are_refused_every_time() -> None:
    for _ in range(2):
        with pytest.raises(InvalidTopic):
            contexts("news..uk")


def test_the_topic_of_notices_has_contexts_since_it_is_in_the_log() -> None:
    assert contexts("$dwsps.notice") == ("$dwsps.notice", "$dwsps")
    with pytest.raises(InvalidTopic):
        contexts("$dwsps.notice.below")


def test_contexts_are_remembered_for_a_bounded_number_of_topics() -> None:
    for number in range(2000):
        contexts(f"remembered.{number}")

    assert contexts.cache_info().currsize <= 1024
