"""
What a workload consists of: cases, one for each rival in each scenario.

A measurement of a case takes a process of its own, so that no rival leaves
anything behind for the next.
"""

import json
import os
import subprocess

from pooltools import ToolError
from pooltools.processes import stop_group

from .environments import ROOT

UNWANTED = ("DJANGO_", "PYTHON", "POOL_", "PG", "MYSQL_")


class Workload:
    """
    Something to be measured. Subclasses set these and define cases().

    letter: its name on the command line.
    title: what it is, in a line.
    about: more about it, for the documentation.
    columns: (metric, heading, number of decimals) for the tables.
    ratio: the metric that is compared, None if there's none.
    extreme: metric -> min or max, for those whose worst round is shown, not
        the median of all.
    rounds: how many, unless the command line says so: in a quick run, in a
        full one.
    """

    letter = None
    title = None
    about = None
    columns = ()
    ratio = None
    extreme = {}
    # An odd number in a full run, so that a median is something that was
    # measured.
    rounds = (3, 3)

    def cases(self, lab):
        raise NotImplementedError


class Case:
    """
    One rival in one scenario: what to run, in which environment.

    function: "module.function" below benchmarks.measures.
    """

    timeout = 120

    def __init__(self, scenario, rival, environment, function, arguments):
        self.scenario = scenario
        self.rival = rival
        self.environment = environment
        self.function = function
        self.arguments = arguments

    def measure(self, lab):
        """Return the figures of one round: {metric: number}."""
        module, _, function = self.function.partition(".")
        task = {"module": module, "function": function, "arguments": self.arguments}
        python = lab.python(self.environment)
        return run_measure(python, task, self.timeout, f"{self.rival}: {self.function}")


def run_measure(python, task, timeout, what):
    process = subprocess.Popen(
        [str(python), "-m", "benchmarks.measures"],
        cwd=ROOT / "scripts",
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(json.dumps(task), timeout)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{what} took over {timeout} s.")
    finally:
        stop_group(process)
    if process.returncode:
        raise ToolError(f"{what} failed:", errors.strip().splitlines()[-12:])
    return json.loads(output)


def clean_environment(**variables):
    env = {k: v for k, v in os.environ.items() if not k.startswith(UNWANTED)}
    return {**env, **variables}
