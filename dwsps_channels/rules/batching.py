"""Rights of users, read for those together who ask at the same time."""

import asyncio
from typing import Any, Final

from django.db.models import Model
from msgspec import Struct

from dwsps_channels.core.reader import Reader
from dwsps_channels.core.rule_set import RuleSet
from dwsps_channels.rules.loading import is_read_with_others, load_reader, load_readers
from dwsps_channels.threads.pools import ask

# Users in one query.
MAX_TOGETHER: Final = 500


class _Batch(Struct, eq=False):
    """Users of one model whose rights are read together."""

    model: type[Model]
    rules: RuleSet
    users: list[Model]
    reading: "asyncio.Task[list[Reader]] | None" = None


class RightsReader:
    """Reads the rights of users. While one read is under way, the users of the next one gather."""

    def __init__(self) -> None:
        # Still takes users.
        self._open: _Batch | None = None
        self._last: asyncio.Task[list[Reader]] | None = None

    async def read(self, user: Any, rules: RuleSet) -> Reader:
        """Return what ``load_reader`` returns, read after this call."""
        if not is_read_with_others(user):
            return await ask(load_reader, user, rules)
        batch = self._batch(user._meta.model, rules)
        number = len(batch.users)
        batch.users.append(user)
        if batch.reading is None:
            self._last = batch.reading = asyncio.ensure_future(self._read(batch, self._last))
        # Others wait for it as well.
        readers = await asyncio.shield(batch.reading)
        return readers[number]

    def _batch(self, model: type[Model], rules: RuleSet) -> _Batch:
        batch = self._open
        if (
            batch is None
            or batch.rules is not rules
            or batch.model is not model
            or len(batch.users) >= MAX_TOGETHER
        ):
            batch = self._open = _Batch(model, rules, [])
        return batch

    async def _read(
        self, batch: _Batch, earlier: "asyncio.Task[list[Reader]] | None"
    ) -> list[Reader]:
        if earlier is not None:
            await asyncio.wait([earlier])
        if self._open is batch:
            self._open = None
        return await ask(load_readers, batch.users, batch.rules)
