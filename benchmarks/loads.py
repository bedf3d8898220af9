"""The loads that each contestant is put under. The generator's ``--help`` explains the options."""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["publish", "acknowledged", "idle", "storm", "recovery", "across", "across-delay"]
"""``acknowledged``: the acks of publishes count, not the deliveries. ``across``: published at one process of a server,
delivered at another."""

_UNITS = {
    "publish": "deliveries/s",
    "acknowledged": "messages/s",
    "idle": "KiB each",
    "storm": "reconnects/s",
    "recovery": "recoveries/s",
    "across": "messages/s",
    "across-delay": "ms at the median",
}

# In quick mode: enough to see that all works, too little to quote.
QUICK_IDLE = 1_000
QUICK_STORM = 300
NOT_QUICK = ("fan-1000-1", "pairs-500", "fan-100-8-each")


@dataclass(frozen=True)
class Load:
    """One of the generator's loads, with its options."""

    name: str
    title: str
    kind: Kind
    options: dict[str, int] = field(default_factory=dict)
    once: bool = False
    """True if one round suffices: for a load that takes long and is the same every time."""

    @property
    def unit(self) -> str:
        return _UNITS[self.kind]

    @property
    def command(self) -> str:
        """The generator's command."""
        return {
            "acknowledged": "publish",
            "recovery": "recover",
            "across": "publish",
            "across-delay": "publish",
        }.get(self.kind, self.kind)

    @property
    def is_first(self) -> bool:
        """True if the server gets it right after its start: its memory and its log are as they were then."""
        return self.kind in ("idle", "recovery")

    @property
    def is_across(self) -> bool:
        return self.kind in ("across", "across-delay")

    @property
    def least_is_best(self) -> bool:
        return self.kind in ("idle", "across-delay")

    def arguments(self) -> list[str]:
        return [word for name, value in self.options.items() for word in (f"--{name}", str(value))]


def _fan(subscribers: int, in_flight: int) -> Load:
    return Load(
        f"fan-{subscribers}-{in_flight}",
        f"1 to {subscribers}, {in_flight} in flight",
        "publish",
        {"subscribers": subscribers, "in-flight": in_flight, "gathered": 1},
    )


def _pairs(count: int) -> Load:
    return Load(f"pairs-{count}", f"{count} pairs", "publish", {"groups": count})


def all_loads(*, quick: bool) -> list[Load]:
    """Return the loads in the order in which a server gets them."""
    idle = QUICK_IDLE if quick else 10_000
    storm = QUICK_STORM if quick else 5_000
    loads = [
        # First, while the server's memory is as it was after the start.
        Load(
            "idle",
            f"{_thousands(idle)} idle connections",
            "idle",
            {"connections": idle},
            once=True,
        ),
        _fan(100, 8),
        _fan(100, 1),
        _fan(1000, 8),
        _fan(1000, 1),
        _pairs(50),
        _pairs(500),
        Load(
            "fan-100-8-each",
            "1 to 100, 8 in flight, written one by one",
            "publish",
            {"subscribers": 100, "in-flight": 8},
        ),
        Load(
            "fan-100-8-4k",
            "1 to 100, 4 KiB, 8 in flight",
            "publish",
            {"subscribers": 100, "in-flight": 8, "gathered": 1, "payload": 4096},
        ),
        Load(
            "levels-10",
            "10 levels, a subscriber on each, 8 in flight",
            "publish",
            {"subscribers": 10, "levels": 10, "in-flight": 8, "gathered": 1},
        ),
        Load(
            "storm",
            f"storm of {_thousands(storm)} reconnects, 3 topics each",
            "storm",
            {"connections": storm, "topics": 3},
        ),
        Load(
            "recovery",
            f"recovery of {_thousands(storm)} clients, 100 messages missed each",
            "recovery",
            {"connections": storm, "topics": 3, "missed": 100},
        ),
        # The database shares the generator's core, and what the log waits for is not for the generator to hurry.
        Load(
            "acks-1",
            "1 publisher, 256 in flight",
            "acknowledged",
            {"in-flight": 256, "gathered": 1, "spin": 0},
        ),
        Load(
            "acks-50",
            "50 publishers, 8 in flight each",
            "acknowledged",
            {"groups": 50, "in-flight": 8, "gathered": 1, "spin": 0},
        ),
        # Several processes share the cores: the generator does not spin.
        Load(
            "across-light",
            "200 messages a second",
            "across-delay",
            {"rate": 200, "in-flight": 64, "spin": 0},
        ),
        Load(
            "across-1",
            "1 publisher, 256 in flight",
            "across",
            {"in-flight": 256, "gathered": 1, "spin": 0},
        ),
        Load(
            "across-50",
            "50 publishers, 8 in flight each",
            "across",
            {"groups": 50, "in-flight": 8, "gathered": 1, "spin": 0},
        ),
    ]
    return [load for load in loads if not quick or load.name not in NOT_QUICK]


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")
