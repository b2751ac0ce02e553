"""
Database backends as people write them for credentials that change: the
password is asked for whenever a connection is opened.
"""


class Credentials:
    password = None


class RotatingMixin:
    def get_connection_params(self):
        return {**super().get_connection_params(), "password": Credentials.password}
