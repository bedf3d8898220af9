"""Nothing that was evicted is forgotten: at worst, more seems to be missing than is."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.evictions import Evictions
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.topics import MAX_LEVELS, contexts
from tests.core.recording import STAMP

levels = st.sampled_from(["a", "b", "c", "d"])


def entry(topic: str, offset: int) -> Entry:
    return Entry(offset, Publication(topic, Raw(b"1"), STAMP), "", 0.0)


@given(
    st.lists(st.tuples(st.lists(levels, min_size=1, max_size=4), st.booleans()), max_size=60),
    st.sampled_from([1, 2, 5, 16, 1000]),
)
def test_it_never_tells_less_than_is_missing(
    added: list[tuple[list[str], bool]], most: int
) -> None:
    evictions = Evictions(most)
    missing: dict[str, int] = {}
    for offset, (parts, is_asked) in enumerate(added, 1):
        topic = ".".join(parts)
        evictions.add([entry(topic, offset)])
        missing.update(dict.fromkeys(contexts(topic), offset))
        if is_asked:
            assert evictions.latest(topic) == offset
    for topic, offset in missing.items():
        assert evictions.latest(topic) >= offset
        if len(missing) <= most:
            assert evictions.latest(topic) == offset


def test_its_memory_is_bounded_though_topics_are_deep() -> None:
    most = 160
    evictions = Evictions(most)
    longest = 0
    for offset in range(1, 2000):
        topic = ".".join([f"t{offset}"] * MAX_LEVELS)
        evictions.add([entry(topic, offset)])
        longest = max(longest, len(evictions))
        if offset % 300 == 0:
            assert evictions.latest(topic) == offset
            assert len(evictions) <= most
    # And what is taken in at once.
    assert longest <= most + most // 16
