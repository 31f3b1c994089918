"""
Compare forward training with backpropagation on your own environment, by ``python -m sb3_forward.compare``.

The command line (``__main__``) makes a *plan* of runs. The *sweep* sends each run to its own process, the *trial*. The
*results* are one file per run, or two tables of all runs; the *report* computes its *statistics*, tables and plots from
either.
"""
