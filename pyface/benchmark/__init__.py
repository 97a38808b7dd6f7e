"""Measuring pyface: cases, the method, machine facts, and the JSON document that `bench/report.py` reads.

>>> from pyface.benchmark import run_suite
>>> document = run_suite(only=["bias_act"], quick=True)          # doctest: +SKIP
"""

from pyface.benchmark.case import Case, Formula, Variant, Workload
from pyface.benchmark.ceilings import Ceilings, measure_ceilings
from pyface.benchmark.machine import machine_facts
from pyface.benchmark.method import Timing, measure
from pyface.benchmark.suite import all_cases, run_suite, schema

__all__ = [
    "Case",
    "Ceilings",
    "Formula",
    "Timing",
    "Variant",
    "Workload",
    "all_cases",
    "machine_facts",
    "measure",
    "measure_ceilings",
    "run_suite",
    "schema",
]
