import asyncio

from dwsps_channels.broker.sending.tasks import end


async def test_a_task_that_forgets_a_cancellation_is_ended_nevertheless() -> None:
    cancelled = 0

    async def forgetful() -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled == 3:
                    raise

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert cancelled == 3


async def test_what_a_task_raises_when_it_is_ended_is_its_own_affair() -> None:
    async def raises() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("no")

    task = asyncio.create_task(raises())
    await asyncio.sleep(0)
    await end(task)
    assert task.done()
    await end(task)
    await end(None)
