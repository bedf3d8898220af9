"""The goals of the project, as ratios of medians of one run."""

from dataclasses import dataclass

from benchmarks.loads import Load
from benchmarks.results import Results


@dataclass(frozen=True)
class Goal:
    """``ours`` is to have at least ``bound`` times what ``rival`` has; of memory, at most.

    Without a rival the bound is in the load's own unit.
    """

    load: str
    ours: str
    rival: str | None
    bound: float

    def reached(self, results: Results) -> tuple[float, bool] | None:
        """Return the measured ratio and whether it meets the goal; ``None``: it was not measured."""
        load = next((one for one in results.loads if one.name == self.load), None)
        if load is None:
            return None
        if self.rival is not None:
            found = results.ratio(self.ours, self.rival, load)
        else:
            figure = results.figure(self.ours, load)
            found = None if figure is None else figure.value
        if found is None:
            return None
        return found, self.is_met_by(found, load)

    def is_met_by(self, found: float, load: Load) -> bool:
        return found <= self.bound if load.least_is_best else found >= self.bound


GOALS = [
    Goal("fan-100-8", "fastlane", "ws", 8),
    Goal("fan-100-8", "fastlane", "nats", 1.8),
    Goal("fan-100-8", "fastlane", "uwebsockets", 1),
    Goal("fan-100-8", "fastlane", "group-send", 150),
    Goal("fan-100-8", "daphne", "group-send", 10),
    Goal("fan-100-8", "daphne", "bare-daphne", 0.7),
    Goal("fan-1000-8", "fastlane", "ws", 5),
    Goal("fan-1000-8", "fastlane", "nats", 1.8),
    Goal("fan-1000-8", "daphne", "group-send", 15),
    Goal("fan-100-1", "fastlane", "ws", 3),
    Goal("fan-100-1", "fastlane", "nats", 1),
    Goal("fan-100-1", "fastlane", "uwebsockets", 1),
    Goal("pairs-50", "fastlane", "ws", 2),
    Goal("pairs-50", "fastlane", "socketio", 1),
    Goal("pairs-50", "daphne", "group-send", 8),
    Goal("idle", "fastlane", "nats", 1.2),
    Goal("storm", "fastlane", None, 2000),
    Goal("storm", "daphne", None, 800),
    Goal("recovery", "fastlane", None, 4000),
    Goal("across-light", "two-redis", None, 2),
    Goal("across-1", "two-redis", None, 20_000),
]
