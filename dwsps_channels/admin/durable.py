"""The page of durable messages in Django's admin: those that wait to be published."""

import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import DEFAULT_DB_ALIAS
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse

from dwsps_channels.durable.waiting import lacks_worker
from dwsps_channels.models import DurableMessage

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[DurableMessage]
else:
    _ModelAdmin = admin.ModelAdmin  # Django's own has no type parameters


@admin.register(DurableMessage)
class DurableMessageAdmin(_ModelAdmin):
    """Nobody adds or changes one by hand."""

    list_display = ("topic", "created_at", "attempts", "due_at", "last_error")
    list_filter = ("topic",)
    search_fields = ("topic", "last_error")
    ordering = ("created_at", "id")
    fields = ("topic", "content", "timestamp", "created_at", "attempts", "due_at", "last_error")
    readonly_fields = fields
    actions = ("publish_now",)

    class Media:
        css = {"all": ("dwsps_channels/admin.css",)}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: DurableMessage | None = None
    ) -> bool:
        return False

    def has_publish_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        databases = [self.get_queryset(request).db or DEFAULT_DB_ALIAS]
        context = {"lacks_worker": lacks_worker(databases), **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description="message")
    def content(self, message: DurableMessage) -> str:
        text = json.dumps(json.loads(bytes(message.message)), indent=2, ensure_ascii=False)
        # JSON may have half of a surrogate pair, a page may not.
        return text.encode("utf-8", "backslashreplace").decode()

    @admin.action(description="Publish selected messages now", permissions=["publish"])
    def publish_now(self, request: HttpRequest, queryset: QuerySet[DurableMessage]) -> None:
        # Before the update: no worker has had the time for what that makes due.
        if lacks_worker([queryset.db]):
            text, level = "no worker is running; once one is, it publishes them", messages.WARNING
        else:
            text, level = "the worker publishes them within seconds", messages.SUCCESS
        count = queryset.update(due_at=Now())
        self.message_user(request, f"{text}: {count}", level)
