"""
What a statement may leave behind in its session.

A guess that errs on the side of something: only statements known to leave
nothing are harmless.
"""

import re

# Bits of what a statement may leave behind.
NOTHING = 0
TRANSACTION = 1
SESSION = 2
ANYTHING = TRANSACTION | SESSION
# No statement's, but of an exception that isn't the driver's and came while
# the driver was at work: that may be half done.
INTERRUPTED = 4

# Statements remembered as harmless, at most. Those of the ORM repeat, as far
# as parameters aren't part of them.
MAX_REMEMBERED = 4096
# Characters of the longest one: those that insert many rows, or look for
# many keys, are long, and seldom come again.
MAX_REMEMBERED_LENGTH = 2000

# What can be explained, which doesn't execute it.
EXPLAINED = ("SELECT", "UPDATE", "DELETE", "WITH")

# Blanks, comments and parentheses, then up to two words, of which the second
# isn't the first part of a dotted name. Databases don't agree on where a
# comment ends that holds a carriage return or another comment: there's no
# first word then.
BEGINNING = re.compile(
    r"(?:\s|\(|--[^\n\r]*(?:\r?\n|$)|/\*(?:(?!/\*).)*?\*/)*"
    r"(\w+)?(?:\s+(\w+)\b(?!\s*\.))?",
    re.DOTALL,
)


class StatementJudge:
    """
    Tell what statements may leave behind when they are run in autocommit mode
    or in a transaction that Django began.

    harmless: first words of statements that leave nothing.
    suspicious: a pattern; what it matches makes a statement suspicious
        whatever its first word is. It's searched for without regard to case.
    hints: strings in lower case; the pattern is searched for only where one of
        them is found, which takes a small part of the time. By default, it's
        always searched for.
    into_creates: whether INTO makes a statement suspicious, for what SELECT
        INTO creates may be temporary.
    harmless_pairs: first words -> second words that together leave nothing.
    session_only: a pattern; statements whose beginning it matches leave
        something in the session, but no transaction.
    """

    # They end a transaction, or begin nothing but a part of one.
    WITHIN_TRANSACTION = frozenset(
        ["SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "END", "ABORT"]
    )
    BEGIN = frozenset(["BEGIN", "START"])

    # INTO is a part of these.
    INSERT = frozenset(["INSERT", "MERGE"])
    INTO = re.compile(r"\binto\b", re.IGNORECASE)

    def __init__(
        self,
        harmless,
        suspicious=None,
        hints=("",),
        into_creates=False,
        harmless_pairs=None,
        session_only=None,
    ):
        self.harmless = frozenset(harmless)
        self.suspicious = suspicious and re.compile(suspicious, re.IGNORECASE)
        self.hints = hints
        self.into_creates = into_creates
        self.harmless_pairs = harmless_pairs or {}
        self.session_only = session_only and re.compile(session_only, re.IGNORECASE)
        self.remembered = set()

    def judge(self, sql):
        """Return the bits of what a statement may leave behind."""
        if not isinstance(sql, str):
            # Composed by the driver's own means.
            return ANYTHING
        if sql in self.remembered:
            return NOTHING
        first, second = BEGINNING.match(sql).groups(default="")
        first, second = first.upper(), second.upper()
        if ";" in sql.rstrip("; \t\r\n"):
            # Perhaps more than one statement.
            return ANYTHING
        if first in self.WITHIN_TRANSACTION:
            # Not remembered: the names of savepoints differ. COMMIT AND CHAIN
            # begins the next transaction.
            return TRANSACTION if "CHAIN" in sql.upper() else NOTHING
        if first in self.BEGIN:
            return TRANSACTION
        if first not in self.harmless and second not in self.harmless_pairs.get(
            first, ()
        ):
            if self.session_only is not None and self.session_only.match(sql):
                return SESSION
            return ANYTHING
        if self.is_suspicious(sql, first):
            return SESSION
        if len(self.remembered) < MAX_REMEMBERED and len(sql) <= MAX_REMEMBERED_LENGTH:
            self.remembered.add(sql)
        return NOTHING

    def is_suspicious(self, sql, first):
        lowered = sql.lower()
        if self.suspicious is not None:
            for hint in self.hints:
                if hint in lowered:
                    if self.suspicious.search(sql):
                        return True
                    break
        return (
            self.into_creates
            and first not in self.INSERT
            and "into" in lowered
            and self.INTO.search(sql)
        )
