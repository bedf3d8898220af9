"""The ``DWSPS`` setting, key by key."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dwsps_channels.conf import KEYS, conf
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.notice import MAX_NOTICES, NOTICE_BYTES
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.timings import Timings
from dwsps_channels.policies import AllowAll, ReadOnly
from dwsps_channels.protocol.topics import NOTICES
from dwsps_channels.tokens import SignedToken
from tests.tokens import authenticators

DEFAULTS: dict[str, Any] = {
    "SERVER_NAME": "dwsps",
    "SERVER_URL": "ws://127.0.0.1:8000/ws/pubsub/",
    "PUBLIC_URL": None,
    "ALLOWED_ORIGINS": None,
    "POLICY": "dwsps_channels.policies.AllowAll",
    "AUTHENTICATOR": None,
    "GRANT_MAX_AGE": 3600.0,
    "REVOKE": True,
    "LOOKUP_THREADS": 4,
    "POLICY_THREADS": 8,
    "BROKER": None,
    "PUBLISH_TIMEOUT": 2.0,
    "MAX_MESSAGE_BYTES": 64 * 1024,
    "MAX_MESSAGE_DEPTH": 128,
    "MAX_SUBSCRIPTIONS": 1000,
    "MAX_SUBSCRIPTION_BYTES": 64 * 1024,
    "MAX_BUFFERED_BYTES": 1024 * 1024,
    "MAX_CONNECTIONS": None,
    "MAX_CONNECTIONS_PER_ADDRESS": None,
    "RATE_LIMIT": None,
    "RATE_BURST": 100,
    "RATE_LIMIT_BYTES": None,
    "RATE_BURST_BYTES": 1024 * 1024,
    "TAIL_MESSAGES": 10_000,
    "TAIL_BYTES": 16 * 1024 * 1024,
    "TAIL_MAX_AGE": 3600.0,
    "LOG_MESSAGES": 100_000,
    "LOG_BYTES": 64 * 1024 * 1024,
    "LOG_MAX_AGE": 86_400.0,
    "HISTORY": {},
    "RESUME_MESSAGES": 10_000,
    "RESUME_BYTES": 8 * 1024 * 1024,
    "DURABLE_MAX_AGE": 86_400.0,
    "TIMINGS": Timings(),
}

GOOD: list[tuple[str, Any]] = [
    ("SERVER_NAME", "a"),
    ("SERVER_NAME", "eu-1.Example_com"),
    ("SERVER_NAME", "n" * 64),
    ("SERVER_URL", "wss://example.com/ws/pubsub/"),
    ("SERVER_URL", "ws://[::1]:8000"),
    ("PUBLIC_URL", None),
    ("PUBLIC_URL", "wss://live.example.com/ws/pubsub/"),
    ("ALLOWED_ORIGINS", None),
    ("ALLOWED_ORIGINS", ()),
    ("ALLOWED_ORIGINS", ("https://example.com",)),
    ("ALLOWED_ORIGINS", ("https://example.com", "http://[::1]:8000")),
    ("ALLOWED_ORIGINS", ("*",)),
    ("AUTHENTICATOR", None),
    ("REVOKE", False),
    ("BROKER", None),
    ("PUBLISH_TIMEOUT", 0.1),
    ("PUBLISH_TIMEOUT", 10),
    ("MAX_MESSAGE_BYTES", 1),
    ("MAX_MESSAGE_DEPTH", 1),
    ("MAX_MESSAGE_DEPTH", 512),
    ("MAX_SUBSCRIPTIONS", 1),
    ("MAX_SUBSCRIPTION_BYTES", 1),
    ("MAX_BUFFERED_BYTES", 1),
    ("MAX_CONNECTIONS", None),
    ("MAX_CONNECTIONS", 1),
    ("MAX_CONNECTIONS_PER_ADDRESS", None),
    ("MAX_CONNECTIONS_PER_ADDRESS", 1),
    ("RATE_LIMIT", None),
    ("RATE_LIMIT", 0.5),
    ("RATE_LIMIT", 20),
    ("RATE_BURST", 1),
    ("RATE_LIMIT_BYTES", None),
    ("RATE_LIMIT_BYTES", 10_000.5),
    ("RATE_BURST_BYTES", 1),
    ("TAIL_MAX_AGE", 0.5),
    ("GRANT_MAX_AGE", 0.5),
]

COUNTS = [
    "LOOKUP_THREADS",
    "POLICY_THREADS",
    "MAX_MESSAGE_BYTES",
    "MAX_SUBSCRIPTIONS",
    "MAX_SUBSCRIPTION_BYTES",
    "MAX_BUFFERED_BYTES",
    "RATE_BURST",
    "RATE_BURST_BYTES",
    "TAIL_MESSAGES",
    "TAIL_BYTES",
    "RESUME_MESSAGES",
    "RESUME_BYTES",
]
NO_COUNT = [0, -1, 1.5, "100", True, None]

BAD: list[tuple[str, Any]] = [
    *(
        ("SERVER_NAME", value)
        for value in ("", "n" * 65, "two words", "größe", "a/b", "a\n", None, 1)
    ),
    *(("REVOKE", value) for value in (None, 1, "yes")),
    *(
        ("SERVER_URL", value)
        for value in (
            "",
            "http://example.com",
            "example.com",
            "ws://",
            "ws:///path",
            "ws://[",
            None,
            1,
        )
    ),
    *(
        (key, value)
        for key in ("MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS")
        for value in NO_COUNT
        if value is not None
    ),
    *(("PUBLIC_URL", value) for value in ("", "https://example.com", "/ws/pubsub/", "ws://", 1)),
    *(
        ("ALLOWED_ORIGINS", value)
        for value in (
            "https://example.com",  # a forgotten bracket: its letters are no origins
            ["example.com"],
            ["https://example.com/"],
            ["https://*.example.com"],
            ["https://example.com "],
            ["https://bücher.example"],
            ["https://example.com", None],
            [1],
            {"https://example.com": True},
            1,
        )
    ),
    *(("POLICY", value) for value in (None, AllowAll, 1)),
    ("AUTHENTICATOR", AllowAll),
    ("AUTHENTICATOR", 1),
    *(
        ("BROKER", value)
        for value in [1, "a.b", [], {}, {"OPTIONS": {}}, {"BACKEND": 1}, {"BACKEND": "a.b", "X": 1}]
    ),
    *(
        ("TIMINGS", value)
        for value in [None, 1, {"LEASE": 1}, {"LEASE_TIMEOUT": 0}, {"LEASE_TIMEOUT": "6 s"}]
    ),
    *((key, value) for key in COUNTS for value in NO_COUNT),
    *(("MAX_MESSAGE_DEPTH", value) for value in (*NO_COUNT, 513)),
    *(("RATE_LIMIT", value) for value in (0, -1, "1/s", True, float("nan"))),
    *(("RATE_LIMIT_BYTES", value) for value in (0, -1, "1 MB", True, float("nan"))),
    *(
        (f"LOG_{bound}", value)
        for bound in ("MESSAGES", "BYTES")
        for value in (0, -1, 1.5, True, None)
    ),
    *(("LOG_MAX_AGE", value) for value in (0, -1, "1 day", True, None, float("nan"))),
    *(("DURABLE_MAX_AGE", value) for value in (0, -1, "1 day", True, None, float("nan"))),
    *(("GRANT_MAX_AGE", value) for value in (0, -1, "1 h", True, None, float("nan"))),
    *(("TAIL_MAX_AGE", value) for value in (0, -1, "5 min", True, None, float("nan"))),
    *(
        (key, float("inf"))
        for key in (
            "TAIL_MAX_AGE",
            "LOG_MAX_AGE",
            "DURABLE_MAX_AGE",
            "GRANT_MAX_AGE",
            "PUBLISH_TIMEOUT",
        )
    ),
    *(
        ("HISTORY", value)
        for value in (
            None,
            "chat",
            ["chat"],
            {"chat": {"messages": 0}},
            {"chat": {"seconds": "1 d"}},
            {"chat": {"megabytes": 1}},
            {"chat": 1000},
            {"two words": None},
            {"": None},
            {1: None},
        )
    ),
    *(("PUBLISH_TIMEOUT", value) for value in (0, -1, "2 s", True, None, float("nan"))),
]

NO_POLICY = [
    "",
    "AllowAll",
    ".policies.Mine",
    "no.such.module",
    "dwsps_channels.policies.NoSuchClass",
    "dwsps_channels.conf.Settings",
    "tests.test_conf.an_instance",
    "tests.test_conf.HalfAPolicy",
]

NO_AUTHENTICATOR = [
    "",
    "SignedToken",
    ".tokens.Mine",
    "no.such.module",
    "dwsps_channels.tokens.NoSuchClass",
    "dwsps_channels.conf.Settings",
    "tests.tokens.authenticators.not_callable",
    "tests.tokens.authenticators.one_argument",
    "tests.tokens.authenticators.WithArgument",
]

an_instance = AllowAll()


class HalfAPolicy:
    def may_subscribe(self, identity: object, topic: str) -> bool:
        return True


class TestDefaults:
    @pytest.mark.parametrize("key", KEYS)
    def test_each_key_has_one(self, key: str) -> None:
        with override_settings(DWSPS={}):
            assert getattr(conf, key) == DEFAULTS[key]

    def test_the_setting_may_be_left_out(self) -> None:
        with override_settings():
            from django.conf import settings

            del settings.DWSPS
            assert {key: getattr(conf, key) for key in KEYS} == DEFAULTS

    @override_settings(DWSPS={})
    def test_the_limits_are_the_cores(self) -> None:
        assert conf.limits == Limits()

    @override_settings(DWSPS={})
    def test_what_is_kept_and_replayed_is_as_the_core_has_it(self) -> None:
        assert (conf.retention, conf.history) == (Retention(), {})
        assert conf.replay_limits == ReplayLimits()


class TestHistory:
    @override_settings(
        DWSPS={
            "TAIL_BYTES": 1000,
            "TAIL_MAX_AGE": 60,
            "HISTORY": {"chat": {"messages": 5, "seconds": 0.5}, "news": {}, "pointer": None},
        }
    )
    def test_what_is_left_out_is_as_in_the_tail(self) -> None:
        assert conf.history == {
            "chat": Retention(messages=5, bytes=1000, seconds=0.5),
            "news": Retention(messages=10_000, bytes=1000, seconds=60.0),
            "pointer": None,
        }

    @override_settings(DWSPS={"GRANT_MAX_AGE": 60, "HISTORY": {"news": {}}})
    def test_the_log_keeps_notices_for_as_long_as_grants_last(self) -> None:
        notices = Retention(MAX_NOTICES, MAX_NOTICES * NOTICE_BYTES, 60)
        assert conf.log_history == {NOTICES: notices, "news": conf.history["news"]}


class TestValues:
    @pytest.mark.parametrize(("key", "value"), GOOD)
    def test_a_good_one_is_taken_as_it_is(self, key: str, value: Any) -> None:
        with override_settings(DWSPS={key: value}):
            assert getattr(conf, key) == value

    @pytest.mark.parametrize(("key", "value"), BAD)
    def test_a_bad_one_is_refused_with_the_keys_name(self, key: str, value: Any) -> None:
        with (
            override_settings(DWSPS={key: value}),
            pytest.raises(ImproperlyConfigured, match=rf"DWSPS\['{key}'\] must be "),
        ):
            getattr(conf, key)

    def test_every_key_has_bad_ones_here(self) -> None:
        assert {key for key, _ in BAD} == set(KEYS)

    @pytest.mark.parametrize("value", [None, [], "", 1])
    def test_the_setting_itself_must_be_a_dict(self, value: Any) -> None:
        with (
            override_settings(DWSPS=value),
            pytest.raises(ImproperlyConfigured, match="DWSPS must be a dict"),
        ):
            _ = conf.SERVER_NAME

    def test_one_bad_key_refuses_all(self) -> None:
        with (
            override_settings(DWSPS={"RATE_LIMIT": 0, "SERVER_NAME": "good"}),
            pytest.raises(ImproperlyConfigured, match="RATE_LIMIT"),
        ):
            _ = conf.SERVER_NAME

    @pytest.mark.parametrize(("key", "meant"), [("POLCY", "POLICY"), ("rate_limit", "RATE_LIMIT")])
    def test_an_unknown_key_is_refused_with_the_one_that_is_meant(
        self, key: str, meant: str
    ) -> None:
        with (
            override_settings(DWSPS={key: 1}),
            pytest.raises(ImproperlyConfigured, match=f"'{key}'.* did you mean '{meant}'"),
        ):
            _ = conf.SERVER_NAME

    def test_what_is_wrong_inside_a_dict_is_named(self) -> None:
        with (
            override_settings(DWSPS={"TIMINGS": {"LEASE_TIMEOUT": 0}}),
            pytest.raises(ImproperlyConfigured, match=r"\$\.TIMINGS\.LEASE_TIMEOUT"),
        ):
            _ = conf.TIMINGS

    def test_a_lease_that_would_end_before_it_is_renewed_is_refused(self) -> None:
        with (
            override_settings(DWSPS={"TIMINGS": {"LEASE_TIMEOUT": 1.5}}),
            pytest.raises(ImproperlyConfigured, match="LEASE_RENEW_INTERVAL must be below"),
        ):
            _ = conf.TIMINGS

    def test_a_policy_is_a_class(self) -> None:
        with override_settings(DWSPS={"POLICY": "dwsps_channels.policies.ReadOnly"}):
            assert conf.policy_class is ReadOnly

    @pytest.mark.parametrize("path", NO_POLICY)
    def test_another_path_is_refused_when_it_is_needed(self, path: str) -> None:
        with override_settings(DWSPS={"POLICY": path}):
            assert conf.SERVER_NAME == "dwsps"
            with pytest.raises(ImproperlyConfigured, match=r"DWSPS\['POLICY'\] must be "):
                _ = conf.policy_class

    def test_no_authenticator_is_the_default(self) -> None:
        with override_settings(DWSPS={}):
            assert conf.authenticator is None

    def test_an_authenticator_is_a_callable_or_its_class(self) -> None:
        with override_settings(DWSPS={"AUTHENTICATOR": "tests.tokens.authenticators.by_name"}):
            assert conf.authenticator is authenticators.by_name
        with override_settings(DWSPS={"AUTHENTICATOR": "dwsps_channels.tokens.SignedToken"}):
            assert isinstance(conf.authenticator, SignedToken)
            assert conf.authenticator is conf.authenticator

    @pytest.mark.parametrize("path", NO_AUTHENTICATOR)
    def test_another_path_to_one_is_refused_when_it_is_needed(self, path: str) -> None:
        with override_settings(DWSPS={"AUTHENTICATOR": path}):
            assert conf.SERVER_NAME == "dwsps"
            with pytest.raises(ImproperlyConfigured, match=r"DWSPS\['AUTHENTICATOR'\] must be "):
                _ = conf.authenticator

    def test_a_snapshot_does_not_change(self) -> None:
        with pytest.raises(AttributeError):
            setattr(conf, "SERVER_NAME", "another")  # noqa: B010

    def test_it_is_converted_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with override_settings(DWSPS={"SERVER_NAME": "one"}):
            _ = conf.SERVER_NAME
            monkeypatch.setattr("dwsps_channels.conf.convert", None)
            assert conf.RATE_LIMIT is None

    def test_the_limits_are_of_the_keys(self) -> None:
        with override_settings(
            DWSPS={
                "MAX_MESSAGE_BYTES": 1,
                "MAX_MESSAGE_DEPTH": 6,
                "MAX_SUBSCRIPTIONS": 2,
                "MAX_SUBSCRIPTION_BYTES": 7,
                "MAX_BUFFERED_BYTES": 3,
                "RATE_LIMIT": 4.5,
                "RATE_BURST": 5,
                "RATE_LIMIT_BYTES": 6.5,
                "RATE_BURST_BYTES": 7,
            }
        ):
            assert conf.limits == Limits(
                message_bytes=1,
                message_depth=6,
                subscriptions=2,
                subscription_bytes=7,
                buffered_bytes=3,
                rate=4.5,
                burst=5,
                rate_bytes=6.5,
                burst_bytes=7,
            )


def test_a_changed_setting_counts_at_once() -> None:
    with override_settings(DWSPS={"SERVER_NAME": "one"}):
        assert conf.SERVER_NAME == "one"
        with override_settings(DWSPS={"SERVER_NAME": "two"}):
            assert conf.SERVER_NAME == "two"
        assert conf.SERVER_NAME == "one"
