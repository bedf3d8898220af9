import pytest

from dwsps_channels.protocol.close_codes import CloseCode


@pytest.mark.parametrize(
    ("code", "value", "comes_back"),
    [
        (CloseCode.UNAUTHORIZED, 4001, "never"),
        (CloseCode.FORBIDDEN, 4003, "never"),
        (CloseCode.SLOW_CONSUMER, 4100, "with backoff"),
        (CloseCode.PING_TIMEOUT, 4101, "with backoff"),
        (CloseCode.FLOODING, 4102, "with backoff"),
        (CloseCode.UNVERIFIED, 4103, "with backoff"),
        (CloseCode.GOING_AWAY, 4200, "at once"),
    ],
)
def test_the_range_tells_the_client_what_to_do(
    code: CloseCode, value: int, comes_back: str
) -> None:
    assert code == value
    assert ["never", "with backoff", "at once"][(code - 4000) // 100] == comes_back


def test_each_code_is_named_here() -> None:
    assert len(CloseCode) == 7
