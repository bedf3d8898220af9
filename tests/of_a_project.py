"""Tests as a project has them, for Django's own runner: each is in a transaction, which is rolled back at its end."""

from typing import Any

from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.test import TestCase, override_settings

from dwsps_channels import signals
from dwsps_channels.auth import AuthMiddlewareStack
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.policies import Identity
from dwsps_channels.testing import PubSubCommunicator
from tests.processes import wait_until_async


class Knows:
    """Lets in whoever the database knows, asked in each way that there is."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return User.objects.filter(username=topic).exists()

    async def may_publish(self, identity: Identity, topic: str) -> bool:
        find = User.objects.filter(username=topic)
        return await find.aexists() and await database_sync_to_async(find.exists)()


@override_settings(DWSPS={"POLICY": "tests.of_a_project.Knows"})
class TestDatabase(TestCase):
    ada: User

    @classmethod
    def setUpTestData(cls) -> None:
        cls.ada = User.objects.create(username="ada")

    async def test_policies_and_receivers_use_the_transaction_of_the_test(self) -> None:
        counted: list[int] = []

        def count(**told: Any) -> None:
            counted.append(User.objects.count())

        await User.objects.acreate(username="bob")
        signals.subscribed.connect(count)
        try:
            async with PubSubCommunicator() as client:
                for name in ("ada", "bob"):
                    await client.subscribe(name)
                    await client.publish(name, 1)
                await wait_until_async(lambda: counted == [2, 2])
        finally:
            signals.subscribed.disconnect(count)
        assert await User.objects.acount() == 2

    async def test_so_does_the_handshake(self) -> None:
        await self.async_client.aforce_login(self.ada)
        cookie = f"sessionid={self.async_client.cookies['sessionid'].value}".encode()
        application = AuthMiddlewareStack(PubSubConsumer.as_asgi())
        async with PubSubCommunicator(application, headers=[(b"cookie", cookie)]) as client:
            await client.subscribe("ada")
        assert await User.objects.acount() == 1

    def test_what_was_made_is_rolled_back(self) -> None:
        assert [user.username for user in User.objects.all()] == ["ada"]
