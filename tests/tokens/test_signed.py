"""Tokens that the project signs, and attacks on them."""

import base64
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.signing import Signer
from django.test import override_settings
from django.utils.crypto import constant_time_compare

from dwsps_channels.protocol.tokens import PREFIX, is_signed, is_well_formed
from dwsps_channels.tokens import Authentication, SignedToken, make_token, signed

pytestmark = pytest.mark.django_db

OLD_KEY = "an-old-key" * 5
NEW_KEY = "a-new-key" * 5


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann", password="first")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time."""
    times = mock.Mock(return_value=1_000_000.0)
    monkeypatch.setattr(signed, "time", times)

    def set_time(seconds: float) -> None:
        times.return_value = 1_000_000.0 + seconds

    return set_time


def authenticate(token: str) -> Authentication | None:
    return SignedToken()(token, {})


def stated(token: str) -> dict[str, Any]:
    body = token.removeprefix(PREFIX).rpartition(":")[0]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


@pytest.mark.parametrize("expires", [timedelta(minutes=5), 300, 300.0])
def test_a_token_names_its_user_and_says_when_it_expires(
    ann: User, now: Callable[[float], None], expires: float | timedelta
) -> None:
    token = make_token(ann, expires=expires)
    assert authenticate(token) == Authentication(ann, 1_000_300.0)


def test_it_can_be_in_a_header_and_a_url_and_is_no_secret(ann: User) -> None:
    token = make_token(ann)
    assert is_well_formed(token)
    assert is_signed(token)


def test_it_does_not_carry_what_a_session_has(ann: User) -> None:
    assert stated(make_token(ann)).keys() == {"user", "hash", "expires"}
    assert stated(make_token(ann))["hash"] not in ann.get_session_auth_hash()


def test_it_ends_with_its_time(ann: User, now: Callable[[float], None]) -> None:
    token = make_token(ann, expires=timedelta(seconds=60))
    now(59.9)
    assert authenticate(token) is not None
    now(60)
    assert authenticate(token) is None


def test_it_ends_with_the_password(ann: User) -> None:
    token = make_token(ann)
    ann.set_password("second")
    ann.save()
    assert authenticate(token) is None
    assert authenticate(make_token(ann)) is not None


def test_it_ends_when_its_user_is_deactivated_or_deleted(ann: User) -> None:
    token = make_token(ann)
    User.objects.update(is_active=False)
    assert authenticate(token) is None
    User.objects.update(is_active=True)
    assert authenticate(token) is not None
    ann.delete()
    assert authenticate(token) is None


@pytest.mark.parametrize("expires", [timedelta(), timedelta(seconds=-1), 0, -0.5])
def test_one_that_has_expired_is_not_made(ann: User, expires: float | timedelta) -> None:
    with pytest.raises(ValueError, match="expires must be above 0"):
        make_token(ann, expires=expires)


@pytest.mark.parametrize("user", [AnonymousUser(), User(username="new"), None])
def test_nobody_gets_none(user: Any) -> None:
    with pytest.raises(ValueError, match="a token needs a saved user"):
        make_token(user)


def test_nor_does_who_is_deactivated(ann: User) -> None:
    ann.is_active = False
    with pytest.raises(ValueError, match="not active"):
        make_token(ann)


class TestKeys:
    def test_a_fallback_key_counts(self, ann: User) -> None:
        with override_settings(SECRET_KEY=OLD_KEY):
            token = make_token(ann)
        with override_settings(SECRET_KEY=NEW_KEY, SECRET_KEY_FALLBACKS=[OLD_KEY]):
            assert authenticate(token) is not None
        with override_settings(SECRET_KEY=NEW_KEY):
            assert authenticate(token) is None

    def test_a_fallback_key_does_not_outlive_the_password(self, ann: User) -> None:
        with override_settings(SECRET_KEY=OLD_KEY):
            token = make_token(ann)
        ann.set_password("second")
        ann.save()
        with override_settings(SECRET_KEY=NEW_KEY, SECRET_KEY_FALLBACKS=[OLD_KEY]):
            assert authenticate(token) is None


class TestAttacks:
    def test_every_hash_is_compared_whichever_fits_so_that_time_tells_nothing(
        self, ann: User
    ) -> None:
        token = make_token(ann)
        other = make_token(User.objects.create_user("bob", password="b"))
        counts = []
        with override_settings(SECRET_KEY_FALLBACKS=[OLD_KEY, NEW_KEY]):
            for each in (token, other):
                with mock.patch.object(
                    signed, "constant_time_compare", wraps=constant_time_compare
                ) as compare:
                    assert authenticate(each) is not None
                counts.append(compare.call_count)
        assert counts == [3, 3]

    def test_every_changed_character_is_noticed(self, ann: User) -> None:
        token = make_token(ann)
        for at, character in enumerate(token):
            changed = token[:at] + ("A" if character != "A" else "B") + token[at + 1 :]
            # The last characters of each part may have bits that mean nothing.
            found = authenticate(changed)
            assert found is None, at

    def test_another_user_of_ones_own_choice_is_not_signed(self, ann: User) -> None:
        eve = User.objects.create_user("eve", password="eve")
        body, _, signature = make_token(eve).removeprefix(PREFIX).rpartition(":")
        forged = stated(make_token(eve)) | {"user": str(ann.pk)}
        changed = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()
        assert authenticate(f"{PREFIX}{changed}:{signature}") is None
        assert authenticate(f"{PREFIX}{body}:{signature}") is not None

    def test_the_password_of_another_server_with_the_same_key_opens_nothing(
        self, ann: User
    ) -> None:
        """The same key and the same primary key, but another user table."""
        token = make_token(ann)
        User.objects.filter(pk=ann.pk).delete()
        User.objects.create_user("bob", password="first", pk=ann.pk)
        assert authenticate(token) is None

    @pytest.mark.parametrize("salt", ["", "django.core.signing.Signer", "dwsps_channels.worker.v2"])
    def test_what_was_signed_for_another_purpose_is_none(self, ann: User, salt: str) -> None:
        body = Signer(salt=salt or None).sign_object(stated(make_token(ann)))
        assert authenticate(PREFIX + body) is None

    @pytest.mark.parametrize(
        "token",
        ["", PREFIX, f"{PREFIX}:", f"{PREFIX}e30:x", "x" * 100_000, f"{PREFIX}\x00", "\ud800", "é"],
    )
    def test_nonsense_is_refused_without_a_query(
        self, token: str, django_assert_num_queries: Any
    ) -> None:
        with django_assert_num_queries(0):
            assert authenticate(token) is None

    def test_a_signature_is_checked_before_the_database(
        self, ann: User, django_assert_num_queries: Any
    ) -> None:
        token = make_token(ann)
        with django_assert_num_queries(0), override_settings(SECRET_KEY=NEW_KEY):
            assert authenticate(token) is None
        with django_assert_num_queries(1):
            assert authenticate(token) is not None

    def test_each_reason_is_logged_now_and_then_and_the_token_is_not(
        self, ann: User, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        token = make_token(ann)
        authenticator = SignedToken()
        for _ in range(3):
            with override_settings(SECRET_KEY=NEW_KEY):
                authenticator(token, {})
        User.objects.update(is_active=False)
        authenticator(token, {})
        assert [record.getMessage() for record in caplog.records] == [
            "a token was refused: it was not signed by this project",
            "a token was refused: its user is not active",
        ]
