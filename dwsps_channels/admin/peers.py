"""The pages of peers in Django's admin."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.views.decorators.debug import sensitive_post_parameters

from dwsps_channels.admin.forms import PeerForm
from dwsps_channels.conf import conf
from dwsps_channels.models import Peer
from dwsps_channels.peering.connection_test import probe_peers
from dwsps_channels.peering.inbound_status import summarize_inbound
from dwsps_channels.peering.lease import lacks_worker
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.status import status_of, summarize, with_status
from dwsps_channels.peering.units import count

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Peer]
else:
    _ModelAdmin = admin.ModelAdmin  # Django's own has no type parameters

NOTHING = "-"


class LinkStateFilter(admin.SimpleListFilter):
    """Filters peers by the state of their link, as the worker wrote it last."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.label) for state in LinkState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Peer]) -> QuerySet[Peer]:
        state = self.value()
        return queryset if state is None else queryset.filter(status__state=state)


@admin.register(Peer)
class PeerAdmin(_ModelAdmin):
    form = PeerForm
    list_display = (
        # A phone shows the first ones without scrolling.
        "name",
        "sending",
        "lag",
        "receiving",
        "dropped",
        "directions",
        "shown_url",
        "last_error",
    )
    list_filter = ("enabled", "forward", "accept", LinkStateFilter)
    search_fields = ("name", "url")
    actions = ("enable", "disable", "test_connection")
    fieldsets = (
        (None, {"fields": ("name", "url", "enabled")}),
        ("Secret", {"fields": ("new_secret", "generate_secret", "secret_in_url", "dwsps")}),
        ("Directions", {"fields": ("forward", "topics", "accept")}),
    )
    sending_fields = (
        "state",
        "lag",
        "last_error",
        "round_trip",
        "forwarded",
        "acked",
        "resent",
        "dropped",
        "missed",
        "reconnects",
    )
    """The fields of the form that show what the worker wrote."""
    receiving_fields = ("receiving_state", "address", "received", "duplicates", "refused")
    """The fields of the form that show what the server's processes wrote."""
    readonly_fields = ("secret_state", *sending_fields, *receiving_fields)

    class Media:
        css = {"all": ("dwsps_channels/admin.css",)}

    # What is shown

    def get_queryset(self, request: HttpRequest) -> QuerySet[Peer]:
        return with_status(super().get_queryset(request))  # type: ignore[arg-type]

    def get_fieldsets(self, request: HttpRequest, obj: Peer | None = None) -> Any:
        address, secret, directions = self.fieldsets
        if obj is not None and not self.has_change_permission(request, obj):
            secret = ("Secret", {"fields": ("secret_state", "secret_in_url", "dwsps")})
        status = [
            ("Sending to it", {"fields": self.sending_fields}),
            ("Receiving from it", {"fields": self.receiving_fields}),
        ]
        return [*(status if obj is not None else []), address, secret, directions]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"lacks_worker": lacks_worker(), **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description="URL", ordering="url")
    def shown_url(self, peer: Peer) -> str:
        return peer.shown_url

    @admin.display(description="directions")
    def directions(self, peer: Peer) -> str:
        ways = [
            *([("→", "messages are sent to it")] if peer.forward else []),
            *([("←", "messages are accepted from it")] if peer.accept else []),
        ]
        return format_html_join(
            " ",
            '<span class="dwsps-way" title="{1}"><span aria-hidden="true">{0}</span>'
            '<span class="visually-hidden">{1}</span></span>',
            ways or [(NOTHING, "no messages in either direction")],
        )

    @admin.display(description="sending", ordering="status__state")
    def sending(self, peer: Peer) -> str:
        return self.state(peer)

    @admin.display(description="state")
    def state(self, peer: Peer) -> str:
        summary = summarize(peer)
        return _coloured(summary.text, summary.severity)

    @admin.display(description="lag", ordering="status__lag")
    def lag(self, peer: Peer) -> str:
        lag = summarize(peer).lag
        if lag is None:
            return NOTHING
        if lag.severity is Severity.OK:
            return lag.text
        return format_html(
            '<span class="dwsps-lag" data-severity="{}">{} <b>{}</b></span>',
            lag.severity,
            lag.text,
            lag.warning,
        )

    @admin.display(description="receiving")
    def receiving(self, peer: Peer) -> str:
        inbound = summarize_inbound(peer)
        return _coloured(inbound.short_text, inbound.severity)

    @admin.display(description="state")
    def receiving_state(self, peer: Peer) -> str:
        inbound = summarize_inbound(peer)
        return _coloured(inbound.text, inbound.severity)

    @admin.display(description="address")
    def address(self, peer: Peer) -> str:
        return ", ".join(summarize_inbound(peer).addresses) or NOTHING

    @admin.display(description="received")
    def received(self, peer: Peer) -> str:
        return count(summarize_inbound(peer).received)

    @admin.display(description="duplicates dropped")
    def duplicates(self, peer: Peer) -> str:
        return count(summarize_inbound(peer).duplicates)

    @admin.display(description="refused")
    def refused(self, peer: Peer) -> str:
        return count(summarize_inbound(peer).refused)

    @admin.display(description="last error")
    def last_error(self, peer: Peer) -> str:
        return _of_status(peer, "last_error")

    @admin.display(description="round trip")
    def round_trip(self, peer: Peer) -> str:
        status = status_of(peer)
        if status is None or status.round_trip is None:
            return NOTHING
        return f"{status.round_trip * 1000:.1f} ms"

    @admin.display(description="sent")
    def forwarded(self, peer: Peer) -> str:
        return _of_status(peer, "forwarded")

    @admin.display(description="acknowledged")
    def acked(self, peer: Peer) -> str:
        return _of_status(peer, "acked")

    @admin.display(description="sent again")
    def resent(self, peer: Peer) -> str:
        return _of_status(peer, "resent")

    @admin.display(description="dropped", ordering="status__dropped")
    def dropped(self, peer: Peer) -> str:
        return _of_status(peer, "dropped")

    @admin.display(description="dropped as the log no longer had them")
    def missed(self, peer: Peer) -> str:
        return _of_status(peer, "missed")

    @admin.display(description="reconnects")
    def reconnects(self, peer: Peer) -> str:
        return _of_status(peer, "reconnects")

    @admin.display(description="secret")
    def secret_state(self, peer: Peer) -> str:
        if peer.has_lost_secret:
            return "set, but it cannot be decrypted"
        return "set" if peer.secret else "not set"

    # What is saved

    @method_decorator(sensitive_post_parameters("new_secret", "url"))
    def changeform_view(self, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().changeform_view(*args, **kwargs)

    def response_add(
        self, request: HttpRequest, obj: Peer, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._secret_page(request, obj) or super().response_add(
            request, obj, post_url_continue
        )

    def response_change(self, request: HttpRequest, obj: Peer) -> HttpResponse:
        return self._secret_page(request, obj) or super().response_change(request, obj)

    def _secret_page(self, request: HttpRequest, peer: Peer) -> HttpResponse | None:
        """Show a generated secret in this response. A message would be stored until it is shown."""
        if "generate_secret" not in request.POST:
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": f"The secret of {peer.name}",
            "opts": self.opts,
            "peer": peer,
            "server_name": conf.SERVER_NAME,
        }
        return TemplateResponse(request, "admin/dwsps_channels/peer/secret.html", context)

    # Actions

    @admin.action(description="Enable selected peers", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Peer]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable selected peers", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Peer]) -> None:
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Peer], *, enabled: bool) -> None:
        peers = list(queryset.exclude(enabled=enabled))
        Peer.objects.filter(pk__in=[peer.pk for peer in peers]).update(enabled=enabled)
        word = "enabled" if enabled else "disabled"
        for peer in peers:
            self.log_change(request, peer, f"{word.capitalize()}.")
        names = ", ".join(peer.name for peer in peers)
        self.message_user(request, f"{word}: {names or 'no peer'}", messages.SUCCESS)

    @admin.action(description="Test the connection to selected peers", permissions=["change"])
    def test_connection(self, request: HttpRequest, queryset: QuerySet[Peer]) -> None:
        for peer, result in probe_peers(queryset):
            level = messages.SUCCESS if result.ok else messages.ERROR
            self.message_user(request, f"'{peer.name}': {result.message}", level)


def _coloured(text: str, severity: Severity) -> str:
    return format_html('<span class="dwsps-state" data-severity="{}">{}</span>', severity, text)


def _of_status(peer: Peer, field: str) -> str:
    status = status_of(peer)
    value = "" if status is None else getattr(status, field)
    if isinstance(value, int):
        return count(value)
    return NOTHING if value == "" else localize(value)
