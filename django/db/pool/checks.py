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
    ):
        issues.append(
            Warning(
                f"DATABASES[{alias!r}]: The pool isn't used: the database "
                f"{settings_dict['NAME']!r} is in memory, and each of its "
                "connections may see another database.",
                hint="Remove the pool's options, or set NAME to a file.",
                obj=alias,
                id="database.W001",
            )
        )
    return issues
