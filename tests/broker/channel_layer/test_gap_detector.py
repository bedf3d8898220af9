import pytest

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.broker.channel_layer.gap_detector import FORGET_AFTER, MAX_SENDERS, GapDetector
from tests.broker.contract import publication


def batch(first: int, count: int = 0, sender: str = "a") -> Batch:
    """The publications ``first`` and those after it, each with its number as its message."""
    return Batch(sender, first, [publication(first + index) for index in range(count)])


def accepted(detector: GapDetector, batch: Batch, now: float = 0.0) -> list[int]:
    return [int(bytes(each.message)) for each in detector.accept(batch, now)]


def test_a_sender_is_met_where_it_is() -> None:
    detector = GapDetector()
    assert accepted(detector, batch(57, 2)) == [57, 58]
    assert detector.gaps == 0


@pytest.mark.parametrize(
    ("came", "new", "gaps", "missed"),
    [
        pytest.param(batch(10, 2), [10, 11], 0, 0, id="next"),
        pytest.param(batch(10), [], 0, 0, id="heartbeat"),
        pytest.param(batch(12, 2), [12, 13], 1, 2, id="gap"),
        pytest.param(batch(12), [], 1, 2, id="heartbeat after a gap"),
        pytest.param(batch(8, 2), [], 0, 0, id="twice"),
        pytest.param(batch(8, 4), [10, 11], 0, 0, id="overlap"),
        pytest.param(batch(3), [], 0, 0, id="late heartbeat"),
        pytest.param(batch(0, 3, sender="b"), [0, 1, 2], 0, 0, id="another sender"),
    ],
)
def test_what_is_new_after_the_tenth(came: Batch, new: list[int], gaps: int, missed: int) -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 10))
    assert accepted(detector, came) == new
    assert (detector.gaps, detector.missed) == (gaps, missed)


def test_what_cannot_be_read_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 10))
    three = [publication(10), None, publication(12)]
    assert accepted(detector, Batch("a", 10, three, "nested too deeply")) == [10, 12]
    assert accepted(detector, batch(13, 1)) == [13]
    assert (detector.gaps, detector.missed) == (0, 1)
    [record] = caplog.records
    assert "missed 1 messages of process a, as they cannot be read: nested" in record.getMessage()


def test_a_late_batch_does_not_set_a_sender_back() -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 10))
    accepted(detector, batch(2, 3))
    assert accepted(detector, batch(10, 1)) == [10]
    assert detector.gaps == 0


def test_what_comes_after_its_gap_was_counted_is_not_delivered_out_of_order() -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 1))
    accepted(detector, batch(2, 1))
    assert accepted(detector, batch(1, 1)) == []
    assert detector.missed == 1


def test_forgets_who_was_not_heard_for_long() -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 1, sender="gone"))
    accepted(detector, batch(0, 1, sender="there"), FORGET_AFTER - 1)
    assert len(detector) == 2
    accepted(detector, batch(1, 1, sender="there"), FORGET_AFTER)
    assert len(detector) == 1
    assert accepted(detector, batch(2, 1, sender="there"), FORGET_AFTER) == [2]


def test_remembers_a_bounded_number_the_latest_heard() -> None:
    detector = GapDetector()
    accepted(detector, batch(0, 1, sender="regular"))
    for index in range(2 * MAX_SENDERS):
        accepted(detector, batch(0, 1, sender=str(index)))
        accepted(detector, batch(1, 0, sender="regular"))
    assert len(detector) == MAX_SENDERS
    assert accepted(detector, batch(2, 1, sender="regular")) == [2]
    assert detector.missed == 1
