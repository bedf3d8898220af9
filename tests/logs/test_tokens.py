"""The filter that keeps tokens out of servers' lines."""

import logging

import pytest

from dwsps_channels.logs.tokens import LOGGERS, hide_tokens


@pytest.mark.parametrize("name", LOGGERS)
@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/ws/?token=abc", "/ws/?token=***"),
        ("/ws/?a=b&token=a%2Bb.c:d&c=d", "/ws/?a=b&token=***&c=d"),
        ("/ws/?token=one&token=two", "/ws/?token=***&token=***"),
        ('/ws/?token=it\'s"quoted"&c=d', "/ws/?token=***&c=d"),
        ("/ws/?tokens=abc", "/ws/?tokens=abc"),
        ("/ws/?token=", "/ws/?token="),
        ("/ws/", "/ws/"),
    ],
)
def test_the_value_is_hidden_and_the_rest_stays(
    name: str, path: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    hide_tokens()
    hide_tokens()
    caplog.set_level(logging.INFO, name)
    caplog.handler.setLevel(logging.INFO)
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        logger.info('%s - "WebSocket %s" %d', "127.0.0.1:1", path, 403)
    finally:
        logger.removeHandler(caplog.handler)
    assert f'127.0.0.1:1 - "WebSocket {logged}" 403' in caplog.text
    assert len(logger.filters) == 1


def test_a_line_without_arguments_and_one_that_is_no_text_are_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hide_tokens()
    logger = logging.getLogger(LOGGERS[0])
    logger.error({"token": "object"})
    logger.error("GET /?token=abc", extra={})
    logger.error("%(path)s", {"path": "by name"})
    assert "abc" not in caplog.text
