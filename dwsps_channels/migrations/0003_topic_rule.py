import django.db.models.deletion
from django.apps import apps
from django.db import migrations, models

import dwsps_channels.models.topic_rule


class Migration(migrations.Migration):
    dependencies = [("dwsps_channels", "0002_durable_log")]

    operations = [
        migrations.CreateModel(
            name="TopicRule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "topic",
                    models.CharField(
                        blank=True,
                        help_text="For this topic and all below it, unless a deeper rule decides. Empty: for every topic. A level {pk} or {username} is the user's own: the rule for users.{pk} is, for user 7, the rule for users.7.",
                        max_length=255,
                        unique=True,
                        validators=[dwsps_channels.models.topic_rule.validate_rule_topic],
                    ),
                ),
                (
                    "subscribe",
                    models.CharField(
                        choices=[
                            ("everybody", "everybody"),
                            ("authenticated", "logged-in users"),
                            ("staff", "staff"),
                            ("permission", "users with a permission"),
                            ("group", "members of a group"),
                            ("nobody", "nobody"),
                        ],
                        default="nobody",
                        max_length=16,
                        verbose_name="who may subscribe",
                    ),
                ),
                (
                    "subscribe_permission",
                    models.CharField(
                        blank=True,
                        help_text="For users with a permission: app_label.codename, such as orders.view_order.",
                        max_length=255,
                        verbose_name="permission",
                    ),
                ),
                (
                    "publish",
                    models.CharField(
                        choices=[
                            ("everybody", "everybody"),
                            ("authenticated", "logged-in users"),
                            ("staff", "staff"),
                            ("permission", "users with a permission"),
                            ("group", "members of a group"),
                            ("nobody", "nobody"),
                        ],
                        default="nobody",
                        max_length=16,
                        verbose_name="who may publish",
                    ),
                ),
                (
                    "publish_permission",
                    models.CharField(
                        blank=True,
                        help_text="For users with a permission: app_label.codename, such as orders.view_order.",
                        max_length=255,
                        verbose_name="permission",
                    ),
                ),
                (
                    "publish_group",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        help_text="For members of a group.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="auth.group",
                        verbose_name="group",
                    ),
                ),
                (
                    "subscribe_group",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        help_text="For members of a group.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="auth.group",
                        verbose_name="group",
                    ),
                ),
            ],
            options={
                "ordering": ("topic",),
            },
        ),
    ]

    # Rules name groups: without django.contrib.auth there is no such model.
    if apps.is_installed("django.contrib.auth"):
        dependencies += [("auth", "0012_alter_user_first_name_max_length")]
    else:
        operations = []
