"""A notifier that writes down what it is given."""

from dwsps_channels.core.notice import Notice


class RecordingNotifier:
    """Takes notices, or raises ``problem``."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.problem: Exception | None = None

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        if self.problem is not None:
            raise self.problem
        self.notices.append(notice)

    async def anotify(self, notice: Notice) -> None:
        self.notify(notice)

    def take(self) -> list[Notice]:
        taken, self.notices = self.notices, []
        return taken
