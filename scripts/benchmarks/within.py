"""What the pool takes within queries and requests, and parts of it."""

from . import django_cycle, leases, web
from .cases import Workload
from .environments import PATCHED

WHOLE = "all of it"
# What is left out, by name.
OF_REQUEST = {
    WHOLE: None,
    "without asking whether the socket is alive": "socket",
    "without looking at the driver's attributes": "driver",
}
OF_QUERY = {**OF_REQUEST, "without giving back and borrowing": "giving back"}


class Within(Workload):
    """The whole, and what's left of it without a part."""

    letter = "n"
    title = "where the time goes: within queries and requests, one thread"
    about = (
        "In one process, by turns, so that the machine's pace and where things lie "
        "in memory are the same for both: a query under the lease of a transaction "
        "beside one under that of a request, and a request with three queries, but "
        "without a web server, beside one on a persistent connection. What is left "
        "out couldn't be, it's what makes the pool safe. Between queries the same "
        "code takes several times as long as in the loops of (d) and (l): it isn't "
        "in the processor's caches any more."
    )
    columns = [
        ("cpu", "CPU us", 1),
        ("cpu other", "of the other", 1),
        ("cpu ratio", "CPU ratio", 3),
        ("wall ratio", "wall ratio", 3),
    ]
    ratio = "cpu ratio"

    def cases(self, lab):
        server = lab.server("postgresql")
        persistent = django_cycle.database(lab, django_cycle.PERSISTENT)
        request, transaction = (
            {**server.settings, "POOL": {"max_size": leases.FEW, "lease": lease}}
            for lease in ("request", "transaction")
        )
        for scenario, use, database, other, parts in [
            ("a query by get(), as in (j)", "get()", transaction, request, OF_QUERY),
            ("a request as in (e)", "request", request, persistent, OF_REQUEST),
        ]:
            for name, part in parts.items():
                arguments = {
                    "database": database,
                    "other": other,
                    "use": use,
                    "without": part,
                    "seconds": lab.pick(1.0, 4.0),
                }
                yield web.InProcessCase(
                    scenario, name, PATCHED, "within.compare", arguments, server
                )
