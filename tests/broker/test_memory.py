import pytest

from dwsps_channels.broker.memory import MemoryBroker
from tests.broker.contract import LogContract, MakeBroker, Member, publication


class TestMemoryBroker(LogContract):
    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        return MemoryBroker

    async def test_delivers_within_the_call(self) -> None:
        member = await Member(MemoryBroker()).start()
        offsets = [member.broker.publish(publication(number)) for number in (7, 8)]
        assert offsets == member.offsets == [1, 2]
        assert member.numbers == [7, 8]

    async def test_delivers_what_was_published_before_the_start_by_it(self) -> None:
        member = Member(MemoryBroker())
        assert member.broker.publish(publication(7)) == 1
        await member.start()
        assert member.broker.publish(publication(8)) == 2
        assert (member.numbers, member.offsets) == ([7, 8], [1, 2])

    async def test_begins_a_log_with_each_start(self) -> None:
        logs = [(await Member(MemoryBroker()).start()).logs for _ in range(2)]
        (one,), (other,) = logs
        assert (one.offset, one.floor, list(one.publications)) == (0, 0, [])
        assert one.epoch != other.epoch
