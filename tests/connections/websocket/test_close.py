"""Close codes and close frames."""

import pytest

from dwsps_channels.connections.websocket.close import NO_STATUS, close_frame, is_sendable


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1014, 3000, 4100, 4999])
def test_a_code_that_may_be_sent(code: int) -> None:
    assert is_sendable(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not(code: int) -> None:
    assert not is_sendable(code)


def test_a_frame_has_the_code_and_the_reason() -> None:
    assert close_frame(4100, "slow") == b"\x88\x06\x10\x04slow"


def test_without_a_status_it_is_empty() -> None:
    assert close_frame(NO_STATUS, "nothing") == b"\x88\x00"


def test_a_reason_that_is_too_long_is_cut_between_characters() -> None:
    frame = close_frame(1000, "x" * 122 + "ü")
    assert frame[:2] == b"\x88\x7c"
    assert frame[4:] == b"x" * 122
