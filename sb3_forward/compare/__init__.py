"""
``python -m sb3_forward.compare``: does forward training match backpropagation on an environment of yours?

The command line (``__main__``) makes a *plan* of runs; the *sweep* sends each run to a process of its own, the *trial*; the
*results* are one file per run, or two tables of all runs, and the *report* computes its *statistics*, tables and plots from
either.
"""
