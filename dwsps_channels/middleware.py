"""Django middleware: the page's cursor."""

from collections.abc import Awaitable, Callable
from time import time
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from dwsps_channels import reading

Response = HttpResponseBase | Awaitable[HttpResponseBase]


class CursorMiddleware:
    """Notes how far the log is when a request begins, before the view queries anything.

    ``{% dwsps_url %}`` then carries the cursor, and the page's first subscriptions start from it: what is published while
    the page is made and travels is sent to it. Views find the cursor in ``request.dwsps_cursor``; it is empty if there is
    no log, or it cannot be reached. That never fails a request.

    It also notes the time: a grant that is made for the request counts as signed when the request began. So it is void if
    what the view has looked at was revoked before the view signed it.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Response]) -> None:
        self._get_response: Any = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Response:
        """Handle a request."""
        request.dwsps_began = time()  # type: ignore[attr-defined]
        if self._is_async:
            return self._handle(request)
        request.dwsps_cursor = reading.cursor()  # type: ignore[attr-defined]
        return cast(HttpResponseBase, self._get_response(request))

    async def _handle(self, request: HttpRequest) -> HttpResponseBase:
        request.dwsps_cursor = await reading.acursor()  # type: ignore[attr-defined]
        return cast(HttpResponseBase, await self._get_response(request))
