"""
Settings of the demo. scripts/demo sets these variables of the environment:

DEMO_DATABASE    sqlite, postgresql or mariadb
DEMO_DIRECTORY   where the SQLite database is
DEMO_POOL        "on" or "off"
POOL_*           where a private server is, see scripts/servers
"""

import os
import secrets
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DEMO_SECRET_KEY") or secrets.token_hex()
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "board.apps.BoardConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": Path(os.environ.get("DEMO_DIRECTORY", BASE_DIR)) / "demo.sqlite3",
    "OPTIONS": {
        # Readers don't wait for the writer, and writers wait in line.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    },
}
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": os.environ.get("POOL_PG_DATABASE"),
    "USER": os.environ.get("POOL_PG_USER"),
    "PASSWORD": os.environ.get("POOL_PG_PASSWORD"),
    # By TCP, as most sites have it.
    "HOST": os.environ.get("POOL_PG_TCP_HOST"),
    "PORT": os.environ.get("POOL_PG_PORT"),
}
MARIADB = {
    "ENGINE": "django.db.backends.mysql",
    "NAME": os.environ.get("POOL_MARIADB_DATABASE"),
    "USER": os.environ.get("POOL_MARIADB_USER"),
    "PASSWORD": os.environ.get("POOL_MARIADB_PASSWORD"),
    "HOST": os.environ.get("POOL_MARIADB_TCP_HOST"),
    "PORT": os.environ.get("POOL_MARIADB_PORT"),
}
DATABASES = {
    "default": {
        "sqlite": SQLITE,
        "postgresql": POSTGRESQL,
        "mariadb": MARIADB,
    }[os.environ.get("DEMO_DATABASE", "sqlite")]
}
# All that it takes to switch the pool on.
if os.environ.get("DEMO_POOL") == "on":
    DATABASES["default"]["POOL"] = True

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
STATIC_URL = "static/"

# Errors in requests go to the log of the server: none may happen.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
