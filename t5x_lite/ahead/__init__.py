"""Compiling a run ahead of time, for a machine that need not be there.

topology     names such as `v5e:16x16`, and jax's descriptions of their devices
programs     the steps of a run, lowered for these
launch       asks a process of its own (worker) to compile them
hlo          reads the compiled program;  products, traffic, collectives and
             costs reckon what it does
report       what is said of it;  text prints it
search       tries remat policies, microbatches and meshes
command      `t5x_lite compile`
"""

from t5x_lite.ahead.command import compile_run
from t5x_lite.ahead.programs import Run
from t5x_lite.ahead.search import Search

__all__ = ["Run", "Search", "compile_run"]
