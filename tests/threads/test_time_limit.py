"""The limit on the time for an answer."""

import asyncio

import pytest

from dwsps_channels.threads.time_limit import NoAnswer, in_time


async def test_an_answer_in_time_is_the_answer() -> None:
    assert await in_time(asyncio.sleep(0, "answer"), 30) == "answer"


async def test_what_comes_too_late_is_cancelled() -> None:
    late = asyncio.get_running_loop().create_future()
    with pytest.raises(NoAnswer, match=r"there was no answer within 0\.01 s"):
        await in_time(late, 0.01)
    assert late.cancelled()


@pytest.mark.parametrize("error", [LookupError(), TimeoutError("the socket")])
async def test_an_error_is_the_askers_even_a_timeout_of_something_else(error: Exception) -> None:
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    with pytest.raises(type(error)) as raised:
        await in_time(failed, 30)
    assert raised.value is error
