"""An oracle of the core: slow, and obviously right."""

import json
import unicodedata
from collections.abc import Collection
from typing import Any


class Subscriptions:
    """All subscriptions in one table, in the order in which they were made; each question looks at every one."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Collection[str]] = {}

    def subscribe(self, who: str, topic: str, denied: Collection[str] = ()) -> bool:
        new = (who, topic) not in self._all
        self._all[who, topic] = denied
        return new

    def unsubscribe(self, who: str, topic: str) -> bool:
        return self._all.pop((who, topic), None) is not None

    def leave(self, who: str) -> None:
        self._all = {each: denied for each, denied in self._all.items() if each[0] != who}

    def deliveries(self, topic: str) -> list[tuple[str, str]]:
        """Return the receivers of a message to ``topic``, each with its subscription, in the order of delivery."""
        matching = [
            (who, its)
            for (who, its), denied in self._all.items()
            if is_within(topic, its) and not any(is_within(topic, each) for each in denied)
        ]
        return sorted(matching, key=lambda each: len(each[1]), reverse=True)


def is_within(topic: str, root: str) -> bool:
    """Tell whether ``topic`` is ``root`` or below it."""
    return topic == root or topic.startswith(root + ".")


def is_topic(text: str) -> bool:
    """The grammar of docs/reference/protocol.md, one clause a line."""
    categories = {unicodedata.category(character) for character in text}
    levels = text.split(".")
    return (
        not categories & {"Cc", "Cs", "Zs", "Zl", "Zp"}
        and 1 <= len(text.encode("utf-8")) <= 255
        and len(levels) <= 32
        and all(levels)
        and levels[0] != "$dwsps"
    )


def is_timestamp(text: str) -> bool:
    """RFC 3339, section 5.6, read from left to right."""
    date, between, rest = text[:10], text[10:11], text[11:]
    clock, rest = rest[:8], rest[8:]
    if rest.startswith("."):
        digits = len(rest[1:]) - len(rest[1:].lstrip("0123456789"))
        rest = rest[1 + digits :]
        if not 1 <= digits <= 9:
            return False
    offset_is_right = rest in ("Z", "z") or (
        rest[:1] in ("+", "-") and _is_numbers(rest[1:], ":", [(2, 0, 23), (2, 0, 59)])
    )
    return (
        _is_numbers(date, "-", [(4, 0, 9999), (2, 1, 12), (2, 1, 31)])
        and between in ("T", "t", " ")
        and _is_numbers(clock, ":", [(2, 0, 23), (2, 0, 59), (2, 0, 60)])
        and offset_is_right
    )


def _is_numbers(text: str, separator: str, ranges: list[tuple[int, int, int]]) -> bool:
    parts = text.split(separator)
    return len(parts) == len(ranges) and all(
        len(part) == length and set(part) <= set("0123456789") and low <= int(part) <= high
        for part, (length, low, high) in zip(parts, ranges, strict=True)
    )


def read_json(frame: str | bytes) -> Any:
    """The value of ``frame``, read by the standard library with its leniences taken away.

    Raises ``ValueError`` for what is not JSON, or not UTF-8. An escape may well be half a surrogate pair.
    """
    text = frame if isinstance(frame, str) else frame.decode()
    text.encode()
    return json.loads(text, parse_constant=_refuse)


def has_duplicate_names(frame: str | bytes) -> bool:
    """Return whether an object in the JSON of ``frame`` has a name twice."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in pairs}) < len(pairs)

    json.loads(frame, object_pairs_hook=look)
    return found


def is_id(value: object) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= 64 and not _has_surrogates(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def is_since(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 128


def is_last(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_key(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 64 and not _has_surrogates(value)


def is_signed(value: object, length: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= length and not _has_surrogates(value)


def answer(frame: str | bytes) -> str:
    """Return the answer of a client's session under a policy that allows everything: ack, or an error's code."""
    try:
        request = read_json(frame)
    except ValueError:
        return "invalid_json"
    if not isinstance(request, dict) or request.get("type") not in (
        "subscribe",
        "unsubscribe",
        "publish",
        "resume",
        "authenticate",
    ):
        return "invalid_message"
    if not is_id(request.get("id", 0)):
        return "invalid_message"
    if request["type"] == "authenticate":
        # No session takes tokens by itself.
        return "unauthorized" if is_signed(request.get("token"), 8192) else "invalid_message"
    if request["type"] == "resume":
        grants = request.get("grants", {})
        if not isinstance(grants, dict) or not all(
            is_signed(grant, 2048) for grant in grants.values()
        ):
            return "invalid_message"
        topics = request.get("topics")
        are_texts = isinstance(topics, list) and all(
            isinstance(topic, str) and not _has_surrogates(topic) for topic in topics
        )
        # Each topic has an answer of its own.
        return "ack" if are_texts and is_since(request.get("since")) else "invalid_message"
    if not isinstance(request.get("topic"), str):
        return "invalid_message"
    if request["type"] == "subscribe":
        if not is_since(request.get("since", "")) or not is_last(request.get("last", 0)):
            return "invalid_message"
        if "since" in request and "last" in request:
            return "invalid_message"
        if not is_signed(request.get("grant", "x"), 2048):
            return "invalid_message"
    if request["type"] == "publish":
        if not is_key(request.get("key", "x")):
            return "invalid_message"
        if "message" not in request or not isinstance(request.get("fromPeerServer", False), bool):
            return "invalid_message"
        if "timestamp" in request and not (
            isinstance(request["timestamp"], str) and is_timestamp(request["timestamp"])
        ):
            return "invalid_message"
    if not is_topic(request["topic"]):
        return "invalid_topic"
    if request["type"] == "publish" and request.get("fromPeerServer"):
        return "forbidden"
    return "ack"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _has_surrogates(text: str) -> bool:
    # Once they are read, pairs are one character each: what is left was alone.
    return any(unicodedata.category(character) == "Cs" for character in text)
