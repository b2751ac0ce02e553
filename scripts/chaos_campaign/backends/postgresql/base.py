from django.db.backends.postgresql import base

from .. import RotatingMixin


class DatabaseWrapper(RotatingMixin, base.DatabaseWrapper):
    pass
