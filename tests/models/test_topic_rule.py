"""Topic rules as rows."""

import json

import pytest
from django.contrib.auth.models import Group
from django.core import serializers

from dwsps_channels.models import TopicRule
from dwsps_channels.models.topic_rule import in_tree_order
from tests.rules.rows import rule

pytestmark = pytest.mark.django_db


def test_a_fixture_names_topics_and_groups() -> None:
    """Primary keys are others in another database."""
    editors = Group.objects.create(name="editors")
    row = rule("news", "everybody", editors)
    written = serializers.serialize(
        "json", [row], use_natural_primary_keys=True, use_natural_foreign_keys=True
    )
    assert str(json.loads(written)[0].get("pk", "")) == ""
    row.delete()
    editors.delete()
    rule("sport")
    rule("news", "nobody")
    editors = Group.objects.create(name="editors")
    for loaded in serializers.deserialize("json", written):
        loaded.save()
    assert TopicRule.objects.count() == 2
    assert TopicRule.objects.get(topic="news").publish_group == editors


def test_the_order_is_that_of_a_tree() -> None:
    topics = ["a.b.c", "b", "", "a-b", "a.b", "a", "A"]
    ordered = in_tree_order(TopicRule(topic=topic) for topic in topics)
    assert [each.topic for each in ordered] == ["", "A", "a", "a.b", "a.b.c", "a-b", "b"]
