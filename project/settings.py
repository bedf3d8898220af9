"""Settings of the demo project.

Everything that differs between two deployments comes from the environment:

SECRET_KEY               required, unless DEBUG is on, or was once: then a random one is in .secret_key
DEBUG                    1 or 0, off by default; `make run` turns it on
ALLOWED_HOSTS            comma-separated; this machine only by default
DATABASE_URL             sqlite:///db.sqlite3 by default
REDIS_URL                unset: one process, with its log in the database; set: the processes that share it are one server
DWSPS_SERVER_NAME        what this server calls itself
DWSPS_SERVER_URL         where its websocket is, as others reach it
DWSPS_ALLOWED_ORIGINS    comma-separated, such as https://example.org; same origin by default
DWSPS_POLICY             who may do what, such as dwsps_channels.policies.ReadOnly; unset: everybody everything
HTTPS_ONLY               1: cookies go over TLS only, and plain HTTP is redirected
HSTS_SECONDS             how long browsers insist on TLS; 0, which is off, by default
HSTS_INCLUDE_SUBDOMAINS  1: the subdomains of this host, too
HSTS_PRELOAD             1: the site agrees to be on the browsers' preload list
TRUST_FORWARDED_PROTO    1: a proxy in front of this server always sets X-Forwarded-Proto
"""

import os
from pathlib import Path
from typing import Any

import dj_database_url

from project import environment

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = environment.flag("DEBUG")
SECRET_KEY = environment.secret_key(debug=DEBUG, file=BASE_DIR / ".secret_key")
ALLOWED_HOSTS = environment.words("ALLOWED_HOSTS") or [".localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "daphne",  # first, so that its runserver is the one that is found
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "dwsps_channels",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database


def database() -> dict[str, Any]:
    config: dict[str, Any] = dict(dj_database_url.config(default="sqlite:///db.sqlite3"))
    if config["ENGINE"] != "django.db.backends.sqlite3":
        return config
    if config["NAME"] != ":memory:":
        # A relative path means the same file wherever the server is started.
        config["NAME"] = BASE_DIR / config["NAME"]
    config["OPTIONS"] = {
        # Readers and a writer do not wait for each other, and writers queue at the start of their
        # transaction instead of failing in the middle of it.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,  # seconds in that queue
        **config.get("OPTIONS", {}),
    }
    return config


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# Channels and dwsps


def channel_layer() -> dict[str, Any]:
    url = os.environ.get("REDIS_URL", "")
    if not url:
        return {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    return {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # The messages that may wait for one process. By default 100, beyond which they are dropped: too
        # few where a channel carries all that a process receives.
        "CONFIG": {"hosts": [url], "capacity": 10_000},
    }


CHANNEL_LAYERS = {"default": channel_layer()}


def broker() -> dict[str, Any] | None:
    # In the database, the log survives a restart.
    if os.environ.get("REDIS_URL"):
        return None
    return {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}


DWSPS: dict[str, Any] = {
    key: value
    for key, value in {
        "BROKER": broker(),
        "SERVER_NAME": os.environ.get("DWSPS_SERVER_NAME", ""),
        "SERVER_URL": os.environ.get("DWSPS_SERVER_URL", ""),
        "ALLOWED_ORIGINS": environment.words("DWSPS_ALLOWED_ORIGINS"),
        "POLICY": os.environ.get("DWSPS_POLICY", ""),
    }.items()
    if value
}

# On a developer's machine everybody may do everything, as that is what the page is for; elsewhere if it is said so.
SILENCED_SYSTEM_CHECKS = ["dwsps_channels.W003"] if DEBUG or "POLICY" in DWSPS else []

# TLS: `manage.py check --deploy` has nothing to say once these are set

HTTPS_ONLY = environment.flag("HTTPS_ONLY")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_HSTS_SECONDS = environment.seconds("HSTS_SECONDS")
SECURE_HSTS_INCLUDE_SUBDOMAINS = environment.flag("HSTS_INCLUDE_SUBDOMAINS")
SECURE_HSTS_PRELOAD = environment.flag("HSTS_PRELOAD")
# Only if a proxy sets it: without one, a client could claim TLS.
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if environment.flag("TRUST_FORWARDED_PROTO") else None
)

# Languages, time, files

LANGUAGE_CODE = "en-gb"
USE_I18N = True
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "project" / "static"]
# Served from where they lie, by the application itself, so that any ASGI server does, DEBUG or not, and there is
# nothing to collect first.
WHITENOISE_USE_FINDERS = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{"}},
    "handlers": {"terminal": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["terminal"], "level": "WARNING"},
    "loggers": {
        "daphne": {"level": "INFO"},
        "dwsps_channels": {"level": "INFO"},
    },
}
