"""Names of processes in the database."""

import os
import socket

import pytest

from dwsps_channels.models import PeerInbound
from dwsps_channels.models.process_name import new_process_name, shown_process


def test_a_name_says_where_a_process_runs_and_is_never_used_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web-1")
    assert new_process_name().startswith(f"web-1:{os.getpid()}:")
    assert len({new_process_name() for _ in range(100)}) == 100
    assert shown_process(new_process_name()) == f"web-1, process {os.getpid()}"


def test_a_name_fits_into_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 255)
    monkeypatch.setattr(os, "getpid", lambda: 2**31)
    longest = PeerInbound._meta.get_field("process").max_length
    assert longest is not None
    assert len(new_process_name()) <= longest


def test_a_name_of_another_form_is_shown_as_it_is() -> None:
    assert shown_process("5f0c9d0a8f5b4b0e9d7f0a6a3c1e2b4d") == "5f0c9d0a8f5b4b0e9d7f0a6a3c1e2b4d"
