"""The waits of a client that recovers: for the policy's decisions, for the log, and for room in its buffer."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from dwsps_channels.core.replay import Replay
from dwsps_channels.core.transport import Transport

# The questions about the topics of one resume that a policy may be deciding at once.
MAX_QUESTIONS: Final = 32

# How often a replay waits for the client to catch up. Others go on publishing to it meanwhile.
MAX_WAITS: Final = 16

# How often a resume waits, and for how many seconds each time, until this process has read as far in the log as
# another had when the client was connected there.
MAX_PAUSES: Final = 500
PAUSE: Final = 0.01

Ask = Callable[[str], bool | Awaitable[bool]]
Decisions = dict[str, bool | Exception]
"""By topic the policy's answer, or what it raised."""

Gather = Callable[..., Awaitable[list[Any]]]
"""Awaits its arguments at once, and returns their results in order, as ``asyncio.gather`` does."""


Pause = Callable[[float], Awaitable[object]]
"""Lets so many seconds pass, as ``asyncio.sleep`` does."""


async def no_pause(seconds: float) -> None:
    """Let no time pass: the ``Pause`` of those whose log is never behind."""


async def one_by_one(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await one after the other: the ``Gather`` of those who need no speed."""
    return [await each for each in awaitables]


def ask_each(ask: Ask, topics: Iterable[str], gather: Gather) -> Decisions | Awaitable[Decisions]:
    """Ask about each topic; await the decisions, if they do not come at once."""
    decisions: Decisions = {}
    rest = iter(topics)
    for topic in rest:
        answer = _ask(ask, topic)
        if not isinstance(answer, bool | Exception):
            return _ask_on(ask, decisions, (topic, answer), rest, gather)
        decisions[topic] = answer
    return decisions


async def _ask_on(
    ask: Ask,
    decisions: Decisions,
    first: tuple[str, Awaitable[bool]],
    rest: Iterator[str],
    gather: Gather,
) -> Decisions:
    def ask_some(count: int) -> list[tuple[str, Any]]:
        return [(topic, _ask(ask, topic)) for topic in islice(rest, count)]

    asked = [first, *ask_some(MAX_QUESTIONS - 1)]
    while asked:
        results = await gather(*(_settle(answer) for _, answer in asked))
        decisions.update(zip((topic for topic, _ in asked), results, strict=True))
        asked = ask_some(MAX_QUESTIONS)
    return decisions


def _ask(ask: Ask, topic: str) -> Any:
    try:
        return ask(topic)
    except Exception as error:
        return error


async def _settle(answer: Any) -> bool | Exception:
    if isinstance(answer, bool | Exception):
        return answer
    try:
        return bool(await answer)
    except Exception as error:
        return error


async def wait_for_log(is_behind: Callable[[], bool], pause: Pause) -> None:
    """Wait until this process is not behind the client's cursor any more, or has been for too long."""
    for _ in range(MAX_PAUSES):
        if not is_behind():
            return
        await pause(PAUSE)


async def wait_for_room(
    transport: Transport, limit: int, take: Callable[[], Replay]
) -> Replay | None:
    """Wait until a replay fits into the client's buffer; return it as it is then. Use it before the next ``await``.

    Return ``None`` if the client does not read enough.
    """
    for _ in range(MAX_WAITS):
        caught_up = transport.caught_up()
        if caught_up is None:
            return None
        await caught_up
        replay = take()
        if has_room(transport, limit, replay):
            return replay
    return None


def has_room(transport: Transport, limit: int, replay: Replay) -> bool:
    """Tell whether ``replay`` fits into the client's buffer, which holds ``limit`` bytes."""
    return transport.buffered_bytes + replay.size <= limit
