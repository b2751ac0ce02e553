import json
import os

from chaos_campaign.cli import choose_driver

choose_driver(os.environ["MATRIX_DRIVER"])

SECRET_KEY = "not secret"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": json.loads(os.environ["MATRIX_DATABASE"])}
ROOT_URLCONF = "asgi_scenarios.site.urls"
INSTALLED_APPS = ["asgi_scenarios.site.apps.SiteConfig"]
MIDDLEWARE = []
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
PAUSE = float(os.environ["MATRIX_PAUSE"])
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {
        # Errors that the scenarios want. Others show in the answers.
        "django.request": {"handlers": [], "level": "CRITICAL", "propagate": False},
        "django.db.pool": {"handlers": ["console"], "level": "WARNING"},
    },
}
