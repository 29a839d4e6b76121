"""Benchmarks that compare A with B inside one run, one module each, named as `python -m loadtests.bench` names it.

rounds    interleaved rounds, medians, ratios
machine   what the machine is, and what it gives at this moment
results   the JSON line at the end, and the committed files
"""
