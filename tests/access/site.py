"""A site with a view for each change that Django makes of who may do what, and one that publishes."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.access.site_settings")

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

# Sets Django up, which must come before anything is imported that needs its models.
http = get_asgi_application()
wsgi = get_wsgi_application()

from channels.routing import ProtocolTypeRouter
from django.contrib.auth import login, logout, update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.models import Group, Permission, User
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from dwsps_channels.auth import AuthMiddlewareStack
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.models import TopicRule
from dwsps_channels.routing import URLRouter
from dwsps_channels.tokens import make_token

consumer: Any = PubSubConsumer.as_asgi()
application = ProtocolTypeRouter(
    {"http": http, "websocket": AuthMiddlewareStack(URLRouter([path("", consumer)]))}
)

PASSWORD, NEW_PASSWORD = "correct horse", "battery staple"

urlpatterns: list[URLPattern] = []


def view(function: Callable[[HttpRequest], object]) -> None:
    """Serve ``function`` at its name."""

    @wraps(function)
    def serve(request: HttpRequest) -> HttpResponse:
        function(request)
        return HttpResponse("done")

    urlpatterns.append(path(function.__name__, serve))


def named(request: HttpRequest) -> User:
    return User.objects.get(username=request.GET["name"])


@view
def sign_up(request: HttpRequest) -> None:
    """Make a user, in the group ``members`` and with the permission ``auth.view_user``, and log it in."""
    user = User.objects.create_user(request.GET["name"], password=PASSWORD)
    user.groups.add(Group.objects.get_or_create(name="members")[0])
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    login(request, user)


@view
def log_in(request: HttpRequest) -> None:
    login(request, named(request))


@view
def log_out(request: HttpRequest) -> None:
    logout(request)


@view
def log_in_as_another(request: HttpRequest) -> None:
    """Without a logout: Django replaces the session."""
    login(request, User.objects.create_user(f"not {request.GET['name']}", password=PASSWORD))


@view
def change_password(request: HttpRequest) -> None:
    user: Any = request.user
    fields = {
        "old_password": PASSWORD,
        "new_password1": NEW_PASSWORD,
        "new_password2": NEW_PASSWORD,
    }
    form = PasswordChangeForm(user, fields)
    assert form.is_valid(), form.errors
    form.save()
    update_session_auth_hash(request, user)


@view
def deactivate(request: HttpRequest) -> None:
    user = named(request)
    user.is_active = False
    user.save()


@view
def delete(request: HttpRequest) -> None:
    named(request).delete()


@view
def expire(request: HttpRequest) -> None:
    """Have the session of this browser expire soon."""
    request.session.set_expiry(timedelta(seconds=int(request.GET["seconds"])))


@view
def leave_group(request: HttpRequest) -> None:
    named(request).groups.clear()


@view
def lose_permission(request: HttpRequest) -> None:
    named(request).user_permissions.clear()


def token(request: HttpRequest) -> HttpResponse:
    return HttpResponse(make_token(request.user))


urlpatterns.append(path("token", token))


@view
def make_rules(request: HttpRequest) -> None:
    """Everybody may publish. Who may subscribe, depends."""
    members = Group.objects.get_or_create(name="members")[0]
    TopicRule.objects.create(topic="", subscribe="authenticated", publish="everybody")
    TopicRule.objects.create(
        topic="members", subscribe="group", subscribe_group=members, publish="everybody"
    )
    TopicRule.objects.create(
        topic="written", subscribe="everybody", publish="group", publish_group=members
    )
    TopicRule.objects.create(
        topic="permitted",
        subscribe="permission",
        subscribe_permission="auth.view_user",
        publish="everybody",
    )


@view
def close_topic(request: HttpRequest) -> None:
    TopicRule.objects.create(topic=request.GET["topic"], subscribe="nobody", publish="everybody")
