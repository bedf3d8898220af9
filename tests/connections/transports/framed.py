"""A line whose client reads websocket frames."""

from abc import abstractmethod

from tests.connections.fastlane.raw import CLOSE, TEXT, Received
from tests.connections.transports.contract import Line


class FramedLine(Line):
    def __init__(self) -> None:
        super().__init__()
        self._got: list[Received] = []

    @abstractmethod
    def new_frames(self) -> list[Received]:
        """Return the bytes that the client has read since the last call."""

    @property
    def received(self) -> list[str]:
        return [each.payload.decode() for each in self._frames() if each.opcode == TEXT]

    @property
    def close_code(self) -> int | None:
        codes = [each.payload[:2] for each in self._frames() if each.opcode == CLOSE]
        return int.from_bytes(codes[0], "big") if codes else None

    def _frames(self) -> list[Received]:
        self._got += self.new_frames()
        return self._got
