"""``manage.py peers``: manages peers on the command line."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from json import dumps
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.management.subcommands import AddSubcommand, CommandWithSubcommands
from dwsps_channels.management.table import table
from dwsps_channels.models import Peer, PeerQuerySet, PeerStatus, secrets
from dwsps_channels.models.process_name import shown_process
from dwsps_channels.models.urls import split_token
from dwsps_channels.peering.connection_test import probe_peers
from dwsps_channels.peering.inbound_status import InboundSummary, summarize_inbound
from dwsps_channels.peering.lease import lacks_worker, running_worker
from dwsps_channels.peering.status import summarize, with_status
from dwsps_channels.peering.units import count, duration

# More than a secret may have, so that a longer one is rejected, not cut.
SECRET_CHARACTERS = 2 * secrets.MAX_LENGTH

HEADS = (
    "NAME",
    "SENDING",
    "DIRECTIONS",
    "LAG",
    "DROPPED",
    "RECEIVING",
    "URL",
    "LAST ERROR",
)

EPILOG = """\
examples:
  manage.py peers add berlin wss://berlin.example.org/ws/pubsub/ --generate
  manage.py peers add paris ws://10.0.0.7:8000/ --secret-file - < secret.txt
  manage.py peers add logger ws://10.0.0.8:3000/ --dwsps --no-accept --topic news
  manage.py peers test berlin
  manage.py peers list --json

The exit status is 0 on success, 1 on an error or if a test has failed, and 2 if
the command line is wrong.
"""


class Command(CommandWithSubcommands):
    # Broken into lines by hand, as the formatter keeps the lines of the examples.
    help = (
        "Manage peers: the servers that this server exchanges messages with. Each\n"
        "server needs a peer for the other one, with the same secret. Running servers\n"
        "and workers apply changes within 2 seconds."
    )

    epilog = EPILOG

    def add_subcommands(self, add: AddSubcommand) -> None:
        _add_arguments(add("add", self.add, "add a peer"))
        listing = add("list", self.list, "list all peers and their status")
        listing.add_argument("--json", action="store_true", help="print a JSON array of objects")
        add("test", self.test, "test the connections to peers").add_argument(
            "names", nargs="*", metavar="NAME", help="the peers to test (default: all)"
        )
        for name, run, text in (
            ("enable", self.enable, "exchange messages with peers again"),
            ("disable", self.disable, "stop exchanging messages with peers, but keep them"),
            ("remove", self.remove, "delete peers"),
        ):
            add(name, run, text).add_argument("names", nargs="+", metavar="NAME")

    def add(
        self,
        *,
        name: str,
        url: str,
        secret_file: str | None,
        generate: bool,
        dwsps: bool,
        forward: bool,
        accept: bool,
        enabled: bool,
        topics: list[str],
        **options: Any,
    ) -> None:
        secret = ""
        if secret_file is not None:
            secret = _read_secret(secret_file)
        elif generate:
            secret = secrets.generate()
        if secret and split_token(url)[1]:
            raise CommandError("there are two secrets, one of them in the URL: give only one")
        if not (secret or split_token(url)[1] or dwsps):
            raise CommandError(
                "the secret is missing: make one with --generate, or read one with --secret-file; it is the same on "
                "both servers, and only a dwsps 1.0.1 server (--dwsps) needs none"
            )
        peer = Peer(
            name=name,
            url=url,
            secret=secret,
            dwsps=dwsps,
            forward=forward,
            accept=accept,
            enabled=enabled,
            topics="\n".join(topics),
        )
        try:
            peer.full_clean()
        except ValidationError as error:
            raise CommandError(_message_of(error)) from None
        peer.save()
        self.stdout.write(f"added {peer.name}")
        if generate:
            self.stdout.write("its secret, for the other server; it is not shown again:")
            self.stdout.write(secret)
        elif not peer.secret and peer.accept:
            self.stderr.write("it has no secret, so it cannot send to this server")

    def list(self, *, json: bool, **options: Any) -> None:
        peers = with_status(Peer.objects.all())
        if json:
            self.stdout.write(dumps([_described(peer) for peer in peers], indent=2))
        elif peers:
            if worker := running_worker():
                broker = type(configured_backend()).__name__
                self.stdout.write(f"forwarded by {shown_process(worker)} ({broker})")
            elif lacks_worker():
                self.stderr.write("no worker is running: start 'manage.py runpubsub'")
            for line in table([HEADS, *map(_row, peers)]):
                self.stdout.write(line)
            for line in _warnings(peers):
                self.stdout.write(line)
        else:
            self.stderr.write(
                "no peers yet: add one with 'manage.py peers add NAME URL --generate'"
            )

    def test(self, *, names: Sequence[str], **options: Any) -> None:
        failed = 0
        for peer, result in probe_peers(_find(names) if names else Peer.objects.all()):
            self.stdout.write(f"{peer.name}: {result.message}")
            failed += not result.ok
        if failed:
            raise CommandError(f"{failed} failed")

    def enable(self, *, names: Sequence[str], **options: Any) -> None:
        _rows(_find(names)).enable()
        self.stdout.write(f"enabled {', '.join(names)}")

    def disable(self, *, names: Sequence[str], **options: Any) -> None:
        _rows(_find(names)).disable()
        self.stdout.write(f"disabled {', '.join(names)}")

    def remove(self, *, names: Sequence[str], **options: Any) -> None:
        _rows(_find(names)).delete()
        self.stdout.write(f"removed {', '.join(names)}")


def _add_arguments(command: CommandParser) -> None:
    command.add_argument(
        "name", metavar="NAME", help="1 to 64 ASCII letters, digits, '.', '-' or '_'"
    )
    command.add_argument(
        "url",
        metavar="URL",
        help="the URL of its websocket, ws:// or wss://; a ?token= in it becomes the secret",
    )
    secret = command.add_mutually_exclusive_group()
    secret.add_argument(
        "--secret-file",
        metavar="PATH",
        help="read the secret from the first line of a file, '-' for standard input",
    )
    secret.add_argument(
        "--generate", action="store_true", help="generate a secret and print it, once"
    )
    command.add_argument(
        "--dwsps",
        action="store_true",
        help="it is a dwsps 1.0.1 server, which accepts messages without a secret",
    )
    command.add_argument(
        "--no-forward", dest="forward", action="store_false", help="send nothing to it"
    )
    command.add_argument(
        "--no-accept", dest="accept", action="store_false", help="accept nothing from it"
    )
    command.add_argument(
        "--disabled",
        dest="enabled",
        action="store_false",
        help="add it, but exchange no messages yet",
    )
    command.add_argument(
        "--topic",
        dest="topics",
        action="append",
        default=[],
        metavar="TOPIC",
        help="send only this topic and its sub-topics; can be repeated",
    )


def _read_secret(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.readline(SECRET_CHARACTERS).strip()
        with Path(path).open(encoding="utf-8") as file:
            return file.readline(SECRET_CHARACTERS).strip()
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: not text in UTF-8") from None


def _find(names: Sequence[str]) -> list[Peer]:
    """Return the peers of these names; fail if one is missing."""
    peers = {peer.name: peer for peer in Peer.objects.filter(name__in=names)}
    if unknown := [name for name in names if name not in peers]:
        raise CommandError("\n".join(map(_unknown, unknown)))
    return list(peers.values())


def _unknown(name: str) -> str:
    close = get_close_matches(name, Peer.objects.values_list("name", flat=True), 3)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"there is no peer '{name}'{meant}"


def _rows(peers: Iterable[Peer]) -> PeerQuerySet:
    return Peer.objects.filter(pk__in=[peer.pk for peer in peers])


def _message_of(error: ValidationError) -> str:
    return "\n".join(
        f"{field}: {message}"
        for field, problems in error.message_dict.items()
        for message in problems
    )


def _described(peer: Peer) -> dict[str, Any]:
    summary = summarize(peer)
    status, lag = summary.status or PeerStatus(), summary.lag
    return {
        "name": peer.name,
        "url": peer.shown_url,
        "state": summary.state,
        "text": summary.text,
        "enabled": peer.enabled,
        "forward": peer.forward,
        "accept": peer.accept,
        "dwsps": peer.dwsps,
        "topics": peer.topic_list,
        "has_secret": bool(peer.secret),
        "since": status.since and status.since.isoformat(),
        "seen_at": status.seen_at and status.seen_at.isoformat(),
        "last_error": status.last_error,
        "round_trip": status.round_trip,
        "forwarded": status.forwarded,
        "acked": status.acked,
        "dropped": status.dropped,
        "missed": status.missed,
        "resent": status.resent,
        "reconnects": status.reconnects,
        "lag": lag.messages if lag else None,
        "lag_seconds": _rounded(lag.seconds if lag else None),
        "loses_in": _rounded(lag.loses_in if lag else None),
        "inbound": _described_inbound(summarize_inbound(peer)),
    }


def _described_inbound(inbound: InboundSummary) -> dict[str, Any]:
    return {
        "state": inbound.state,
        "text": inbound.text,
        "connections": inbound.connections,
        "addresses": inbound.addresses,
        "since": inbound.since and inbound.since.isoformat(),
        "seen_at": inbound.seen_at and inbound.seen_at.isoformat(),
        "received": inbound.received,
        "duplicates": inbound.duplicates,
        "refused": inbound.refused,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _row(peer: Peer) -> tuple[str, ...]:
    summary = summarize(peer)
    ways = [word for word, way in (("send", peer.forward), ("accept", peer.accept)) if way]
    return (
        peer.name,
        summary.text,
        "+".join(ways) or "-",
        summary.lag.text if summary.lag else "-",
        count(summary.status.dropped) if summary.status else "-",
        summarize_inbound(peer).short_text,
        peer.shown_url,
        (summary.status.last_error if summary.status else "") or "-",
    )


def _warnings(peers: Iterable[Peer]) -> Iterator[str]:
    kept = configured_backend().retention
    bounds = f"the log keeps at most {count(kept.messages)} messages, for {duration(kept.seconds)}"
    for peer in peers:
        lag = summarize(peer).lag
        if lag is not None and lag.warning:
            yield f"{peer.name} {lag.warning}: {bounds}"
