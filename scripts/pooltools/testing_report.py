"""Count what passed and failed, and say so."""

import time


class Outcome:
    """What one step found. ``failed`` maps the ids of tests to reasons."""

    def __init__(self, passed=(), failed=None, skipped=()):
        self.passed = set(passed)
        self.failed = dict(failed or {})
        self.skipped = set(skipped)
        # Failures that the untouched Django has here, too.
        self.environment = set()
        # Failures that were none when the tests were run alone, neither here
        # nor in the untouched Django.
        self.unsteady = set()

    def __str__(self):
        text = f"{len(self.passed)} passed, {len(self.failed)} failed, "
        text += f"{len(self.skipped)} skipped"
        if self.environment:
            text += f", {len(self.environment)} fail without this project, too"
        if self.unsteady:
            text += f", {len(self.unsteady)} pass alone"
        return text


class Report:
    """Prints the steps as they are run, and at the end what came of them."""

    def __init__(self, steps):
        self.total = steps
        self.outcomes = []
        self.start = self.step_start = time.monotonic()

    def begin(self, title):
        self.title = title
        self.step_start = time.monotonic()
        number = len(self.outcomes) + 1
        print(f"[{number:2}/{self.total}] {title} ...", flush=True)

    def end(self, outcome):
        self.outcomes.append((self.title, outcome))
        print(f"        {outcome} ({self.seconds():.0f} s)", flush=True)
        for test in list(outcome.failed)[:20]:
            print(f"        FAILED {test}", flush=True)

    def seconds(self):
        return time.monotonic() - self.step_start

    def finish(self):
        """Print the details and the totals; return the exit status."""
        for title, outcome in self.outcomes:
            for test, details in list(outcome.failed.items())[:20]:
                print(f"\n{'=' * 70}\nFAILED {test} ({title})\n{'-' * 70}")
                print("\n".join(details.strip().splitlines()[-100:]))
        print()
        self.print_excused(
            "These fail on this machine without this project, too:",
            [(title, outcome.environment) for title, outcome in self.outcomes],
        )
        self.print_excused(
            "These failed, but pass alone, with and without this project:",
            [(title, outcome.unsteady) for title, outcome in self.outcomes],
        )
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"Took {minutes} min {seconds} s.")
        passed = sum(len(outcome.passed) for _, outcome in self.outcomes)
        failed = sum(len(outcome.failed) for _, outcome in self.outcomes)
        # What this machine can't run says nothing, as what is skipped.
        skipped = sum(
            len(outcome.skipped) + len(outcome.environment) + len(outcome.unsteady)
            for _, outcome in self.outcomes
        )
        print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
        return 1 if failed or not passed else 0

    def print_excused(self, heading, found):
        found = [(test, title) for title, tests in found for test in sorted(tests)]
        if found:
            print(heading)
        for test, title in found:
            print(f"  {test} ({title})")
