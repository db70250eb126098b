"""Running Python that nobody vouches for: a process of its own, with limits on time, memory, files, processes, network.

Standard library only, so that every room may ask it. `run` is the parent's side, `inside` what runs in the process.
"""

from unmask.sandbox.run import Limits, Status, Verdict, isolation, run_python

__all__ = ["Limits", "Status", "Verdict", "isolation", "run_python"]
