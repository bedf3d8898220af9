"""A command line: ``python -m dwsps_channels.client URL subscribe TOPIC…`` and ``… URL publish TOPIC JSON``.

The token is taken from the environment variable DWSPS_TOKEN, or from the output of a command: a command line can be read by
others.
"""

import argparse
import asyncio
import json
import logging
import os
import shlex
import sys
from functools import partial
from subprocess import PIPE, CalledProcessError
from typing import Any

from dwsps_channels.client.client import Client
from dwsps_channels.client.errors import CallTimeout, ClientError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dwsps_channels.client")
    parser.add_argument("url", help="ws://… or wss://…")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds (default: 10)")
    parser.add_argument(
        "--token-command",
        metavar="COMMAND",
        help="prints the token; run for each connection, and again before the token expires"
        " (default: the token is in the environment variable DWSPS_TOKEN)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    subscribe = actions.add_parser("subscribe", help="print messages, one JSON object a line")
    subscribe.add_argument("topics", nargs="+", metavar="TOPIC")
    begin = subscribe.add_mutually_exclusive_group()
    begin.add_argument(
        "--last", type=int, metavar="N", help="begin with the N newest messages of each topic"
    )
    begin.add_argument(
        "--since",
        metavar="CURSOR",
        help="begin after this place in the server's log: the last line of an earlier run has it",
    )
    publish = actions.add_parser("publish", help="publish one message")
    publish.add_argument("topic", metavar="TOPIC")
    publish.add_argument("message", metavar="JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        command = options.token_command
        token = partial(_run, command) if command else os.environ.get("DWSPS_TOKEN")
        client = Client(options.url, token=token, timeout=options.timeout)
        if options.action == "publish":
            try:
                message = json.loads(options.message)
            except ValueError as error:
                parser.error(f"the message is not JSON: {error}")
            asyncio.run(_publish(client, options.topic, message, options.timeout))
        else:
            start = {"last": options.last, "since": options.since}
            asyncio.run(_subscribe(client, options.topics, start))
    except KeyboardInterrupt:
        return 130
    except (ClientError, TimeoutError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _run(command: str) -> str:
    """Return what a command prints.

    Raises:
        OSError, ValueError: it cannot be run.
        CalledProcessError: it failed.
    """
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CalledProcessError(process.returncode, command)
    return output.decode().strip()


async def _publish(client: Client, topic: str, message: object, seconds: float) -> None:
    async with client:
        try:
            async with asyncio.timeout(seconds):
                await client.publish(topic, message)
        except CallTimeout:
            raise
        except TimeoutError:
            raise client.last_error or TimeoutError(f"no answer within {seconds:g} s") from None


async def _subscribe(client: Client, topics: list[str], start: dict[str, Any]) -> None:
    async with client:
        readers = [asyncio.create_task(_print(client, topic, start)) for topic in topics]
        try:
            await asyncio.gather(*readers)  # until one is refused
        finally:
            cursor = client.cursor
            await client.close()  # what came in is printed still
            await asyncio.gather(*readers, return_exceptions=True)
            if cursor:
                print(f"continue with --since {cursor}", file=sys.stderr)


async def _print(client: Client, topic: str, start: dict[str, Any]) -> None:
    def say_reset() -> None:
        words = f"reset: messages of {_for_terminal(topic)} may be missing here"
        print(words, file=sys.stderr, flush=True)

    async for got in client.subscribe(topic, on_reset=say_reset, **start):
        fields = {name: getattr(got, name) for name in ("timestamp", "topic", "context", "message")}
        print(_for_terminal(json.dumps(fields, ensure_ascii=False)), flush=True)


def _for_terminal(text: str) -> str:
    """Escape, in JSON's way, what a terminal would obey: the message stays what it is."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


if __name__ == "__main__":
    sys.exit(main())
