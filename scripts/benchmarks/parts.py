"""What a borrow and a return consist of: where the time goes."""

from . import django_cycle, web
from .cases import Case, Workload
from .environments import PATCHED, STOCK
from .measures.parts import ALONE, THROUGH_DJANGO

FLOOR = "for comparison: the floor of (a)"
PERSISTENT = "for comparison: stock persistent"


class Parts(Workload):
    """Each part in the place of a rival, beside the whole."""

    letter = "l"
    title = "where the time goes: parts of a borrow and a return (CPU ns)"
    about = (
        "Each part is measured by itself. What the interpreter gains or loses where "
        "they follow each other is missing, and so is the code between them: they "
        "don't add up exactly. Two calls of Python functions and a deque are what "
        "any pool in Python has to pay. The rest buys something that would have to "
        "be given up: reading the clock for limits of a connection's age and for "
        "the statistics, a token that can be given back only once, the names of "
        "those who hold connections, and turns for threads that wait."
    )
    columns = [("cpu", "CPU ns", 0)]
    ratio = "cpu"

    alone = "the pool alone, as in (a)"
    through_django = "through Django, as in (d), wrapper"

    def cases(self, lab):
        seconds = lab.pick(0.1, 0.5)
        for part in ALONE:
            yield self.case(
                self.alone, part, PATCHED, "alone", part=part, seconds=seconds
            )
        yield self.case(self.alone, FLOOR, STOCK, "floor", seconds=seconds)
        for part in THROUGH_DJANGO:
            yield self.case(
                self.through_django,
                part,
                PATCHED,
                "through_django",
                part=part,
                database=django_cycle.database(lab, django_cycle.OURS),
                seconds=seconds,
            )
        yield self.case(
            self.through_django,
            PERSISTENT,
            STOCK,
            "persistent",
            database=django_cycle.database(lab, django_cycle.PERSISTENT),
            seconds=seconds,
        )

    def case(self, scenario, name, environment, function, **arguments):
        return Case(scenario, name, environment, f"parts.{function}", arguments)


class Instructions(Workload):
    """Deterministic, where the clock's figures of (e) and (j) are not."""

    letter = "m"
    title = "how much Python code is executed, in bytecode instructions"
    about = (
        "In one thread, on open connections. It doesn't depend on what else the "
        "machine does, so that it tells what (d), (e) and (j) can be at best: an "
        "instruction takes some 10 ns in a loop as in (d), and 30 to 50 ns in a "
        "request. What's written in C isn't seen, and neither is waiting."
    )
    columns = [("instructions", "instructions", 0)]
    ratio = "instructions"
    # They are the same each time.
    rounds = (1, 1)

    scenarios = {
        "a request with three queries, as in (e), PostgreSQL": "request",
        "a query by get(), as in (j)": "query",
        "a use of the connection, as in (d), wrapper": "cycle",
    }
    on_mariadb = "a request with three queries, as in (e), MariaDB"

    def cases(self, lab):
        transaction = django_cycle.database(lab, django_cycle.OURS)
        transaction["POOL"] = {**transaction["POOL"], "lease": "transaction"}
        for scenario, function in self.scenarios.items():
            for rival in (
                django_cycle.PERSISTENT,
                django_cycle.STOCK_POOL,
                django_cycle.OURS,
            ):
                yield self.case(
                    lab, scenario, rival, function, django_cycle.database(lab, rival)
                )
            if function != "cycle":
                rival = f"{django_cycle.OURS}, lease transaction"
                yield self.case(lab, scenario, rival, function, transaction)
        mariadb = lab.server("mariadb")
        for rival in (django_cycle.PERSISTENT, django_cycle.OURS):
            settings = {**mariadb.settings, **web.MARIADB[rival][1]}
            yield self.case(
                lab, self.on_mariadb, rival, "request", settings, server="mariadb"
            )

    def case(self, lab, scenario, rival, function, database, server="postgresql"):
        ours = rival.startswith(django_cycle.OURS)
        return web.InProcessCase(
            scenario,
            rival,
            PATCHED if ours else STOCK,
            f"instructions.{function}",
            {"database": database},
            lab.server(server),
        )
