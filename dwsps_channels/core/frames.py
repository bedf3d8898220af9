"""A message as it leaves the server: encoded once, shared by every connection that gets it."""


class Frame:
    """One outgoing websocket text message.

    Each form is made when the first transport asks for it, and then shared: a publish to a thousand subscribers
    is encoded once.
    """

    __slots__ = ("_text", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        """The message's JSON, as UTF-8."""
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The same as text, for doors that take text."""
        text = self._text
        if text is None:
            text = self._text = self.data.decode()
        return text

    def __len__(self) -> int:
        return len(self.data)
