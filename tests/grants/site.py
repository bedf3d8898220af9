"""A site on which everybody may see every order: a page signs a grant for whoever asks for it."""

from asgiref.sync import sync_to_async
from django.contrib.auth import alogin, login, logout, update_session_auth_hash
from django.contrib.auth.models import Group, User
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path

from dwsps_channels import publish
from dwsps_channels.access import permission_changed
from dwsps_channels.core.identity import Identity
from dwsps_channels.grants import make_grant
from dwsps_channels.policies import nonblocking

PAGE = Template('{% load dwsps %}{% dwsps_grant "orders" pk expires=expires %}')

BACKEND = "django.contrib.auth.backends.ModelBackend"


class GrantsOnly:
    """Nobody may do anything without a grant."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return False

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


def order(request: HttpRequest, pk: int) -> HttpResponse:
    expires = float(request.GET.get("expires", 3600))
    return HttpResponse(PAGE.render(RequestContext(request, {"pk": pk, "expires": expires})))


async def order_async(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse(make_grant(f"orders.{pk}", user=await request.auser()))


async def order_in_thread(request: HttpRequest, pk: int) -> HttpResponse:
    return await sync_to_async(order)(request, pk)


def enter(request: HttpRequest, name: str) -> HttpResponse:
    user, _ = User.objects.get_or_create(username=name)
    user.groups.add(Group.objects.get_or_create(name="baristas")[0])
    login(request, user, BACKEND)
    return HttpResponse(str(user.pk))


async def enter_async(request: HttpRequest, name: str) -> HttpResponse:
    user = await User.objects.aget(username=name)
    await alogin(request, user, BACKEND)
    return HttpResponse(str(user.pk))


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


def change_password(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert isinstance(user, User)
    user.set_password("another")
    user.save()
    update_session_auth_hash(request, user)
    return HttpResponse()


def leave_group(request: HttpRequest) -> HttpResponse:
    assert isinstance(request.user, User)
    request.user.groups.clear()
    return HttpResponse()


def revoke(request: HttpRequest, topic: str) -> HttpResponse:
    permission_changed(topic=topic)
    return HttpResponse()


def tell(request: HttpRequest, pk: int) -> HttpResponse:
    publish(f"orders.{pk}", "ready")
    return HttpResponse()


urlpatterns = [
    path("order/<int:pk>/", order),
    path("async/order/<int:pk>/", order_async),
    path("thread/order/<int:pk>/", order_in_thread),
    path("enter/<name>/", enter),
    path("async/enter/<name>/", enter_async),
    path("leave/", leave),
    path("password/", change_password),
    path("group/", leave_group),
    path("revoke/<topic>/", revoke),
    path("tell/<int:pk>/", tell),
]
