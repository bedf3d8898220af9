import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.protocol import timestamps
from dwsps_channels.protocol.timestamps import RFC3339, now
from tests.core.oracle import is_timestamp
from tests.core.recording import SERVER_TIMESTAMP


def is_taken(text: str) -> bool:
    return re.search(RFC3339, text) is not None


def test_now_is_the_present_moment_in_the_servers_form() -> None:
    before = datetime.now(UTC)
    text = now()
    after = datetime.now(UTC)

    assert SERVER_TIMESTAMP.fullmatch(text)
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(text) <= after
    assert is_taken(text)


@given(st.lists(st.integers(0, 253402300799_999_999_999), min_size=1, max_size=5))
def test_now_is_right_from_one_moment_to_any_other(moments: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for moment in moments:
            patch.setattr(timestamps, "time_ns", lambda moment=moment: moment)
            text = now()

            assert SERVER_TIMESTAMP.fullmatch(text)
            whole = datetime.fromtimestamp(moment // 10**9, UTC)
            expected = whole + timedelta(milliseconds=moment // 10**6 % 1000)
            assert datetime.fromisoformat(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-21T17:03:13.625Z",
        "2020-01-21T17:03:13Z",
        "2020-01-21t17:03:13z",
        "2020-01-21 17:03:13+02:00",
        "2020-01-21T17:03:13.123456789-23:59",
        "1998-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_rfc_3339_is_taken(text: str) -> None:
    assert is_taken(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1579626193",
        "2020-01-21",
        "2020-01-21T17:03:13",
        "2020-01-21T17:03Z",
        "2020-01-21T17:03:13.Z",
        "2020-01-21T17:03:13,625Z",
        "2020-01-21T17:03:13.1234567890Z",
        "2020-01-21T17:03:13+0200",
        "2020-01-21T17:03:13+24:00",
        "2020-13-21T17:03:13Z",
        "2020-00-21T17:03:13Z",
        "2020-01-32T17:03:13Z",
        "2020-01-21T24:03:13Z",
        "2020-01-21T17:60:13Z",
        "2020-01-21T17:03:61Z",
        "20-01-21T17:03:13Z",
        " 2020-01-21T17:03:13Z",
        "2020-01-21T17:03:13Z\n",
        "\n2020-01-21T17:03:13Z",
        "2020-01-21T17:03:13Z\n2020-01-21T17:03:13Z",
        "٢٠٢٠-01-21T17:03:13Z",
        "2020-01-21T17:03:13.٦Z",
    ],
)
def test_what_is_not_rfc_3339_is_not_taken(text: str) -> None:
    assert not is_taken(text)


@st.composite
def timestamp_like(draw: st.DrawFn) -> str:
    moment = draw(st.datetimes())
    zone = draw(
        st.sampled_from(["Z", "z", "+00:00", "-12:30", "+23:59", "+24:00", "", "+1:00", "Z\n"])
    )
    text = moment.isoformat(sep=draw(st.sampled_from("Tt _")), timespec="milliseconds") + zone
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from([*"0123456789.:-+TZ \n٣", ""])) + text[at + 1 :]
    return text


@given(timestamp_like())
def test_the_pattern_agrees_with_a_reader_of_rfc_3339(text: str) -> None:
    assert is_taken(text) == is_timestamp(text)
