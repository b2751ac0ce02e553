"""System checks of the pool options."""

from django.core.checks import Error, Warning

from .options import find_problems, is_configured


def check_pool(connection):
    """Return what is wrong with the pool options of a database."""
    settings_dict, alias = connection.settings_dict, connection.alias
    issues = [
        Error(f"DATABASES[{alias!r}]: {what}", hint=hint, obj=alias, id="database.E001")
        for what, hint in find_problems(settings_dict)
    ]
    if (
        not issues
        and is_configured(settings_dict)
        and not connection.pooling_class.can_pool(connection)
        and not is_test_database(connection)
    ):
        issues.append(
            Warning(
                f"DATABASES[{alias!r}]: The pool isn't used: connections to "
                f"{settings_dict['NAME']!r} can't be lent from one thread to "
                "another. For an in-memory database, each may see a database of "
                "its own.",
                hint="Remove the pool's options, or set NAME to a file.",
                obj=alias,
                id="database.W001",
            )
        )
    return issues


def is_test_database(connection):
    """
    Return whether NAME is the test runner's choice, who runs the checks after
    the test databases were created.
    """
    return connection.settings_dict["NAME"] == connection.creation._get_test_db_name()
