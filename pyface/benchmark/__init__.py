"""Measuring pyface: cases, the method, machine facts, and the JSON document that `bench/report.py` reads.

>>> from pyface.benchmark import run_suite
>>> document = run_suite(only=["bias_act"], quick=True)          # doctest: +SKIP
"""

from pyface.benchmark.case import Case, Variant
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import Timing, measure
from pyface.benchmark.suite import all_cases, run_suite, schema

__all__ = ["Case", "Timing", "Variant", "all_cases", "machine_facts", "measure", "run_suite", "schema"]
