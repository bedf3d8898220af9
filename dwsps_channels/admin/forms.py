"""The form of a peer in the admin. It never shows a secret, typed or stored."""

from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError

from dwsps_channels.models import Peer
from dwsps_channels.models.secrets import generate, validate_secret
from dwsps_channels.models.urls import split_token

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Peer]
else:
    _ModelForm = forms.ModelForm  # Django's own has no type parameters


class PeerForm(_ModelForm):
    """The form of a peer. The model's ``secret`` is not a field, as its initial value would show it: it can only be set."""

    new_secret = forms.CharField(
        label="Secret",
        required=False,
        strip=False,
        validators=[validate_secret],
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}),
    )
    generate_secret = forms.BooleanField(
        label="Generate a secret",
        required=False,
        help_text="The next page shows it, once. Enter it on the other server.",
    )

    generated: str = ""
    """The generated secret, if the form is valid and one was asked for."""

    class Meta:
        model = Peer
        fields = (
            *("name", "url", "secret_in_url", "dwsps"),
            *("enabled", "forward", "accept", "topics"),
        )
        widgets: ClassVar = {"url": forms.TextInput(attrs={"class": "vLargeTextField"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token: str | None = None
        # Users who may only view have no such field.
        if "new_secret" in self.fields:
            self.fields["new_secret"].help_text = _help_text(self.instance)

    def clean_url(self) -> str:
        url, self._token = split_token(self.cleaned_data["url"])
        return url

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean() or {}
        typed, token = cleaned.get("new_secret", ""), self._token
        if cleaned.get("generate_secret"):
            self.generated = generate()
        if len(list(filter(None, (typed, token, self.generated)))) > 1:
            self.generated = ""
            raise ValidationError(
                "enter a secret, generate one, or put it in the URL: do only one of these"
            )
        if token:
            try:
                validate_secret(token)
            except ValidationError as error:
                self.add_error("url", error)
            cleaned["secret_in_url"] = True
        if secret := typed or token or self.generated:
            self.instance.secret = secret
        return cleaned

    def add_error(self, field: Any, error: Any) -> None:
        """Attach the model's errors about the secret to the field that sets it."""
        if field is None and "secret" in getattr(error, "error_dict", {}):
            problems = error.error_dict
            if "new_secret" in self.fields:
                problems["new_secret"] = problems.pop("secret")
            error = ValidationError(problems)
        super().add_error(field, error)

    def full_clean(self) -> None:
        super().full_clean()
        if self.is_bound and self.errors:
            self._forget_secrets()

    def _forget_secrets(self) -> None:
        """Remove the secrets from the data, as the page shows the form again with its errors."""
        name = self.add_prefix("url")
        url, token = split_token(self.data.get(name, ""))
        if token is not None:
            data: Any = copy(self.data)
            data[name] = url
            # As saving would have set it.
            data[self.add_prefix("secret_in_url")] = "on"
            self.data = data
        typed = self.data.get(self.add_prefix("new_secret"))
        if (typed or token) and "new_secret" not in self.errors:
            self.add_error("new_secret", "enter the secret again: pages do not repeat it")


def _help_text(peer: Peer) -> str:
    if peer.has_lost_secret:
        return (
            "The stored secret cannot be decrypted: SECRET_KEY has changed, or the row was changed past this app. Set it "
            "again, or add the old key to SECRET_KEY_FALLBACKS."
        )
    if peer.secret:
        return (
            "A secret is set, and never shown. Leave this empty to keep it. Enter it again if you change the scheme, the "
            "host or the port of the URL."
        )
    return "At least 16 characters, the same on both servers. Only a dwsps 1.0.1 server needs none."
