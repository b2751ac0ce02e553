"""
The benchmarks, the work of scripts/bench.

What is here runs on any Python from 3.9 and measures nothing itself. What is
in ``measures`` runs in a process and an environment of the rival's own,
started anew for each round; ``site`` is what the web servers serve.
"""
