"""Surgical edits: a part of a file is masked, filled by a model, judged in a copy, and kept only if it may stand.

Models are unknown here: whoever fills is a callable (`Fills`), whoever judges an oracle (`types.Oracle`).
"""

from unmask.patching.change import FileChangedError
from unmask.patching.judging import Written
from unmask.patching.patch import Candidate, Fills, Gap, Patched, Trial, VerifierError
from unmask.patching.series import Mended, Series, series_of
from unmask.patching.task import Asked, Task, task_of

__all__ = [
    "Asked",
    "Candidate",
    "FileChangedError",
    "Fills",
    "Gap",
    "Mended",
    "Patched",
    "Series",
    "Task",
    "Trial",
    "VerifierError",
    "Written",
    "series_of",
    "task_of",
]
