"""The site's settings. The database comes from the environment."""

import json
import os

SECRET_KEY = "of no use outside the benchmarks"
ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {"default": json.loads(os.environ["BENCH_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "urls"
USE_TZ = True
