"""Validation of the secret of a peer."""

import pytest
from django.core.exceptions import ValidationError

from dwsps_channels.models import secrets
from dwsps_channels.models.secrets import generate, validate_secret
from dwsps_channels.peering.inbound import worker_credentials
from dwsps_channels.peering.inbound.worker_credentials import Purpose
from tests.models.test_peer import make, problems


@pytest.mark.parametrize(
    ("secret", "code"),
    [
        ("x" * 15, "too_short"),
        ("x" * 257, "too_long"),
        ("correct horse battery", "characters"),
        ("correct-hörse-battery", "characters"),
        ("correct-horse-battery\n", "characters"),
        ("worker.correct-horse-battery", "prefix"),
        ("aesgcm:correct-horse-battery", "prefix"),
        ("dwspst_correct-horse-battery", "token"),
        ("eyJhbGciOiJIUzI1NiJ9.correct-horse.battery", "token"),
    ],
)
def test_some_secrets_are_refused_and_not_repeated(db: None, secret: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_secret(secret)
    assert caught.value.code == code
    assert secret not in str(caught.value)
    if code != "prefix":
        assert problems(make(secret=secret)) == {"secret"}


def test_generated_secrets_are_good_ones_and_differ() -> None:
    made = {generate() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        validate_secret(secret)


def test_no_secret_can_be_taken_for_a_workers_credential() -> None:
    assert worker_credentials.sign_worker("a", Purpose.FORWARD).startswith(secrets.WORKER_PREFIX)
