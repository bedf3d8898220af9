"""Topic rules in the test's database."""

from typing import Any

from django.contrib.auth.models import Group

from dwsps_channels.core.rule import Who
from dwsps_channels.models import TopicRule

Allowed = Who | str | Group


def rule(topic: str, subscribe: Allowed = "nobody", publish: Allowed = "nobody") -> TopicRule:
    """Write a rule. A text with a dot is a permission."""
    values: dict[str, Any] = {}
    for action, allowed in (("subscribe", subscribe), ("publish", publish)):
        if isinstance(allowed, Group):
            values |= {action: Who.GROUP, f"{action}_group": allowed}
        elif "." in allowed:
            values |= {action: Who.PERMISSION, f"{action}_permission": allowed}
        else:
            values |= {action: Who(allowed)}
    row = TopicRule(topic=topic, **values)
    row.full_clean()
    row.save()
    return row
