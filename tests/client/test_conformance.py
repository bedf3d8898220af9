"""Both clients recover as the cases in tests/conformance say."""

import pytest

from tests.client.conformance import (
    CASES,
    Application,
    AsyncApplication,
    BlockingApplication,
    Case,
    run,
)


@pytest.mark.parametrize("make", [AsyncApplication, BlockingApplication])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_case(case: Case, make: type[Application]) -> None:
    await run(case, make)
