"""
Make one measurement: read what from the standard input, write the figures to
the standard output, both as JSON.
"""

import importlib
import json
import sys

task = json.load(sys.stdin)
module = importlib.import_module(f"benchmarks.measures.{task['module']}")
figures = getattr(module, task["function"])(**task["arguments"])
json.dump(figures, sys.stdout)
