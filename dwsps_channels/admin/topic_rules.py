"""The pages of topic rules in Django's admin, and the one that explains a decision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.contrib.auth.models import Permission
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from dwsps_channels.core.rule import Who
from dwsps_channels.models import TopicRule
from dwsps_channels.models.topic_rule import ACTIONS, in_tree_order
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.notifying import lost_notices
from dwsps_channels.rules.explanation import (
    Explanation,
    UnknownUser,
    explain,
    find_user,
    policy_problem,
)

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[TopicRule]
    _ModelForm = forms.ModelForm[TopicRule]
else:
    # Django's own have no type parameters.
    _ModelAdmin = admin.ModelAdmin
    _ModelForm = forms.ModelForm

FIRST_RULES = (
    ("everybody may subscribe, and only code publishes", Who.EVERYBODY, Who.NOBODY),
    ("logged-in users may subscribe, and only code publishes", Who.AUTHENTICATED, Who.NOBODY),
    ("logged-in users may subscribe and publish", Who.AUTHENTICATED, Who.AUTHENTICATED),
)
"""Rules for every topic that a project may begin with."""


NOT_TOLD = (
    "The change is saved, but the running server could not be told of it, and goes on by the old rules: the log of this "
    "process says why. Correct that, and save a rule again."
)


class TopicRuleForm(_ModelForm):
    """The form of a rule. Permissions are chosen from those that exist."""

    class Meta:
        model = TopicRule
        fields = (
            "topic",
            *(f"{action}{part}" for action in ACTIONS for part in ("", "_permission", "_group")),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for action in ACTIONS:
            # Users who may only view have no such field.
            if (field := self.fields.get(f"{action}_permission")) is not None:
                stored = getattr(self.instance, f"{action}_permission")
                field.widget = forms.Select(choices=_permissions(stored))
                field.help_text = "For users with a permission."


class ExplainForm(forms.Form):
    """Asks for a user and a topic."""

    user = forms.CharField(
        required=False,
        label="User",
        help_text="The user's name. Empty: a visitor who is not logged in.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )
    topic = forms.CharField(
        label="Topic",
        help_text="Such as news.uk.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )

    def clean_user(self) -> Any:
        name = self.cleaned_data["user"]
        try:
            return find_user(name) if name else None
        except UnknownUser as error:
            raise ValidationError(str(error)) from error

    def clean_topic(self) -> str:
        topic: str = self.cleaned_data["topic"]
        try:
            check(topic)
        except InvalidTopic as error:
            raise ValidationError(f"'{topic}' {error.problem}") from error
        return topic


class _TreeList(ChangeList):
    """A list whose topics are each followed by their sub-topics, unless the reader has chosen another order."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.params.get(ORDER_VAR):
            self.result_list: Any = in_tree_order(self.result_list)


def _who(action: str) -> Any:
    """Return the fields that say who may do ``action``. The stylesheet hides those that the choice does not use."""
    fields = (action, f"{action}_permission", f"{action}_group")
    return {"fields": fields, "classes": ("dwsps-who",)}


@admin.register(TopicRule)
class TopicRuleAdmin(_ModelAdmin):
    form = TopicRuleForm
    list_display = ("shown_topic", "who_subscribes", "who_publishes")
    list_filter = ("subscribe", "publish")
    list_select_related = ("subscribe_group", "publish_group")
    list_per_page = 500
    search_fields = ("topic",)
    fieldsets = (
        (None, {"fields": ("topic",)}),
        ("Subscribe", _who("subscribe")),
        ("Publish", _who("publish")),
    )

    class Media:
        css = {"all": ("dwsps_channels/admin.css",)}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _TreeList

    def get_urls(self) -> list[URLPattern]:
        explaining = path(
            "explain/",
            self.admin_site.admin_view(self.explain_view),
            name="dwsps_channels_topicrule_explain",
        )
        return [explaining, *super().get_urls()]

    # Each of these commits what it changes before it returns.

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with self._warning_of_lost_notices(request):
            return super().changeform_view(request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with self._warning_of_lost_notices(request):
            return super().delete_view(request, *args, **kwargs)

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        with self._warning_of_lost_notices(request):
            return super().response_action(request, *args, **kwargs)

    @contextmanager
    def _warning_of_lost_notices(self, request: HttpRequest) -> Iterator[None]:
        """Warn if the server could not be told that rules have changed."""
        before = lost_notices.total
        yield
        if lost_notices.total > before:
            self.message_user(request, NOT_TOLD, messages.WARNING)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "policy_problem": _policy_problem(),
            "first_rules": [(text, _first_rule(*who)) for text, *who in FIRST_RULES],
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def explain_view(self, request: HttpRequest) -> HttpResponse:
        """Show, for a user and a topic, which rule decides and what it says."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        form = ExplainForm(request.GET if "topic" in request.GET else None)
        explained = None
        if form.is_valid():
            user, topic = form.cleaned_data["user"], form.cleaned_data["topic"]
            found = explain(user, topic)
            explained = {
                "who": "A visitor" if user is None else user.get_username(),
                "is_inactive": user is not None and not getattr(user, "is_active", True),
                "topic": topic,
                "answers": [
                    (each, self._url_of_rule(each))
                    for each in (found.subscribing, found.publishing)
                ],
            }
        context = {
            **self.admin_site.each_context(request),
            "title": "Explain a decision",
            "opts": self.opts,
            "form": form,
            "media": self.media,
            "explained": explained,
            "policy_problem": _policy_problem(),
        }
        return TemplateResponse(request, "admin/dwsps_channels/topicrule/explain.html", context)

    def _url_of_rule(self, found: Explanation) -> str:
        if found.topic_of_rule is None:
            return ""
        row = TopicRule.objects.filter(topic=found.topic_of_rule).first()
        if row is None:
            return ""
        return reverse(f"{self.admin_site.name}:dwsps_channels_topicrule_change", args=[row.pk])

    @admin.display(description="topic", ordering="topic")
    def shown_topic(self, rule: TopicRule) -> str:
        above, dot, last = rule.topic.rpartition(".")
        if not rule.topic:
            return str(rule)
        return format_html('<span class="dwsps-above">{}</span>{}', above + dot, last)

    @admin.display(description="who may subscribe")
    def who_subscribes(self, rule: TopicRule) -> str:
        return str(rule.as_rule().subscribe)

    @admin.display(description="who may publish")
    def who_publishes(self, rule: TopicRule) -> str:
        return str(rule.as_rule().publish)


def _permissions(stored: str) -> list[tuple[str, str]]:
    """Return the choices of permissions: all that exist, and the stored one."""
    rows: QuerySet[Permission] = Permission.objects.select_related("content_type")
    found = [(f"{each.content_type.app_label}.{each.codename}", str(each)) for each in rows]
    if stored and stored not in dict(found):
        found.append((stored, f"{stored} (does not exist)"))
    return [("", "---------"), *found]


def _first_rule(subscribe: Who, publish: Who) -> str:
    return urlencode({"topic": "", "subscribe": subscribe.value, "publish": publish.value})


def _policy_problem() -> str:
    try:
        return policy_problem()
    except ImproperlyConfigured as error:
        return str(error)
