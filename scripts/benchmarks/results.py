"""What was measured: all rounds, from which medians and ratios are made."""

import json
import time
from statistics import median

FORMAT = 1


class Results:
    """Figures by workload, scenario and rival, in the order of measuring."""

    def __init__(self):
        self.about = {"format": FORMAT, "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.rounds = {}
        self.errors = []

    def add(self, workload, case, figures):
        scenarios = self.rounds.setdefault(workload, {})
        rivals = scenarios.setdefault(case.scenario, {})
        rivals.setdefault(case.rival, []).append(figures)

    def add_error(self, workload, case, error):
        self.errors.append(
            {
                "workload": workload,
                "scenario": case.scenario,
                "rival": case.rival,
                "error": str(error),
            }
        )

    def scenarios(self, workload):
        return self.rounds.get(workload, {})

    def most_rounds(self):
        """Return how many rounds the workload with the most had."""
        return max(
            # Several cases of a round may differ in what they measure.
            len([figures for figures in rounds if metric in figures])
            for scenarios in self.rounds.values()
            for rivals in scenarios.values()
            for rounds in rivals.values()
            for metric in rounds[0]
        )

    def values(self, workload, scenario, rival, metric):
        """Return a metric of each round."""
        rounds = self.scenarios(workload).get(scenario, {}).get(rival, [])
        return [figures[metric] for figures in rounds if metric in figures]

    def median(self, *where):
        return self.summary(median, *where)

    def summary(self, function, *where):
        """Return a function, min() for one, of the values of all rounds."""
        values = self.values(*where)
        return function(values) if values else None

    def ratio(self, one, other=None):
        """
        Return the Ratio of two metrics, both (workload, scenario, rival,
        metric). It's formed round by round, from what was measured one soon
        after the other. None if one of them is missing.

        other: None if the first is a ratio in itself.
        """
        ratios = self.values(*one)
        if other is not None:
            ratios = [a / b for a, b in zip(ratios, self.values(*other)) if b]
        return Ratio(ratios) if ratios else None

    def save(self, file):
        content = {**self.about, "results": self.rounds, "errors": self.errors}
        file.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, file):
        content = json.loads(file.read_text())
        results = cls()
        results.rounds = content.pop("results")
        results.errors = content.pop("errors")
        results.about = content
        return results


class Ratio:
    def __init__(self, ratios):
        self.median = median(ratios)
        self.least = min(ratios)
        self.most = max(ratios)

    def __str__(self):
        return f"{show(self.median)} ({show(self.least)}-{show(self.most)})"


def show(number):
    """Return a number with about three significant digits."""
    if number is None:
        return "-"
    if number == 0 or abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.3g}"
