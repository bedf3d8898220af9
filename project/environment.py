"""Settings from environment variables. An unusable value raises an error that names the variable."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"", "0", "false", "no", "off"})


def flag(name: str) -> bool:
    """Read a yes or no; off if unset. Raises ImproperlyConfigured for any other word."""
    word = os.environ.get(name, "").strip().lower()
    if word not in YES | NO:
        raise ImproperlyConfigured(f"{name} is {word!r}: use 1 or 0")
    return word in YES


def seconds(name: str) -> int:
    """Read a whole number of seconds, 0 or more; 0 if unset. Raises ImproperlyConfigured for anything else."""
    text = os.environ.get(name, "").strip() or "0"
    if not (text.isascii() and text.isdecimal()):
        raise ImproperlyConfigured(f"{name} is {text!r}: use a whole number of seconds")
    return int(text)


def words(name: str) -> list[str]:
    """Return the items between the commas, without the space around them; empty if unset."""
    return [word for part in os.environ.get(name, "").split(",") if (word := part.strip())]


def secret_key(*, debug: bool, file: Path) -> str:
    """
    Return SECRET_KEY, or the random key in `file`, which is created while debugging if it is missing.

    A constant would do for a page on localhost, but the key also signs credentials, and a debug server is
    soon shown to a colleague with HOST=0.0.0.0. A new key at each start would log everyone out.

    Without DEBUG none is created: two machines would have two keys, and a container another one after each
    deploy. One that is there is as good as any.

    Raises ImproperlyConfigured if SECRET_KEY is not set and no key is, or can be kept, in `file`.
    """
    if key := os.environ.get("SECRET_KEY", ""):
        return key
    try:
        if file.exists():
            return file.read_text()
        if debug:
            _write_once(file, get_random_secret_key())
            return file.read_text()
    except OSError as error:
        raise ImproperlyConfigured(
            f"no key can be kept in {file} ({error}): set SECRET_KEY"
        ) from error
    raise ImproperlyConfigured(
        "SECRET_KEY is not set: set it to a long random string, the same at each start; "
        "or set DEBUG=1 on your own machine, which creates one"
    )


def _write_once(file: Path, text: str) -> None:
    # Two processes may start at the same time, and both must end up with the same whole key: a hard link
    # appears with its content, and only one of them succeeds. The draft's mode, 0600, comes with it.
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name) as draft:
        draft.write(text)
        draft.flush()
        with suppress(FileExistsError):
            os.link(draft.name, file)
