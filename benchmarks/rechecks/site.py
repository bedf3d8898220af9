"""The views by which the benchmark makes users, and has the server recheck."""

import asyncio
from collections.abc import Callable
from time import perf_counter

from django.contrib.auth import get_user_model
from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks.rechecks.policies import count
from dwsps_channels.access import adisconnect, apermission_changed
from dwsps_channels.server.runtime import obtain
from dwsps_channels.tokens import make_token

# How often it looks if a recheck is over, in seconds.
INTERVAL = 0.005


def user(request: HttpRequest, name: str) -> JsonResponse:
    """Make a user; tell the primary key and a token."""
    made = get_user_model().objects.create_user(name)
    return JsonResponse({"pk": made.pk, "token": make_token(made)})


async def recheck(request: HttpRequest) -> JsonResponse:
    """Call ``permission_changed``, or ``disconnect``; tell after how many seconds all is held back, and decided."""
    rechecker = (await obtain()).rechecker
    count.reset(fails="fails" in request.GET)
    began = perf_counter()
    if "disconnect" in request.GET:
        await adisconnect(user=request.GET["user"])
    else:
        await apermission_changed(request.GET.get("user"), request.GET.get("topic"))
    await _until(lambda: not rechecker.stats().to_hold_back)
    held_back = perf_counter() - began
    await _until(lambda: not rechecker.stats().undecided)
    return JsonResponse(
        {
            "held_back": held_back,
            "decided": perf_counter() - began,
            "questions": count.total,
            "most_at_once": count.most_at_once,
        }
    )


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(INTERVAL)


urlpatterns = [path("user/<name>", user), path("recheck", recheck)]
