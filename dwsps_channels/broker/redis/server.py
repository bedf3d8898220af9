"""The description that a Redis gives of itself."""

from typing import Final, Self

from msgspec import Struct

# XTRIM by id.
OLDEST: Final = (6, 2)


class RedisServer(Struct, frozen=True):
    """A running Redis."""

    run: str
    """Names its data, as long as it runs and follows nobody else: the ids of the run and of the replication."""
    evicts: str
    """The policy by which it may remove keys if memory runs out; empty: it removes none of the log's."""

    @classmethod
    def from_info(cls, info: bytes) -> Self:
        """Read the reply of ``INFO``.

        Raises:
            ConnectionError: it cannot be used. The text says why.
        """
        lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
        known = {name: value for name, _, value in lines}
        version = known.get("redis_version", "0")
        if _parts(version) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise ConnectionError(f"Redis {version} is too old: {needed} or newer is needed")
        if known.get("role") != "master":
            raise ConnectionError("it is a replica, which takes no messages")
        policy = known.get("maxmemory_policy", "")
        # The log's keys have no expiry, without which the volatile policies leave them alone.
        is_bounded = known.get("maxmemory", "0") != "0"
        return cls(
            run=f"{known['run_id']}:{known.get('master_replid', '')}",
            evicts=policy if is_bounded and policy.startswith("allkeys") else "",
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
