"""A model field whose text is encrypted at rest."""

from typing import TYPE_CHECKING, Any

from django.db import models

from dwsps_channels.models.encryption import PREFIX, Unreadable, encrypt

if TYPE_CHECKING:
    _TextField = models.TextField[str, str]
else:
    _TextField = models.TextField  # Django's own has no type parameters


class EncryptedTextField(_TextField):
    """Text that is plain in instances and encrypted everywhere else: in the database, and in fixtures.

    Its model has a method ``encryption_context``, which returns what the text is bound to as bytes, and decrypts in
    ``from_db``. Saving an instance encrypts the text again, with the current key. Look-ups and ``update`` are not
    possible, as they know no instance. Text that no key decrypts reads as ``Unreadable``.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return self._encrypted(model_instance, super().pre_save(model_instance, add))

    def value_to_string(self, obj: models.Model) -> Any:
        """Serialize for a fixture, encrypted as well."""
        return self._encrypted(obj, self.value_from_object(obj))

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if isinstance(value, Unreadable):
            return value.stored
        if value and not value.startswith(PREFIX):
            raise TypeError(
                f"'{self.name}' is bound to its row: set it on an instance, and save that"
            )
        return value

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def _encrypted(self, instance: Any, value: str | None) -> str | None:
        # A fixture's text is encrypted already, and bound to the row that it came from.
        if not value or isinstance(value, Unreadable) or value.startswith(PREFIX):
            return value
        return encrypt(value, instance.encryption_context())
