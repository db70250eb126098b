"""Bounds on what one constraint may cost to compile: counted work, so that hostile input is refused and never hangs."""

from __future__ import annotations

from unmask.constraints.expr import ConstraintError

LONGEST_SOURCE = 200_000  # characters of a schema, grammar or pattern
DEEPEST = 64  # levels of nesting in a schema or pattern
MOST_STATES = 30_000  # of the automata of one constraint
MOST_WORK = 3_000_000  # elementary steps of building them: a few seconds at the very most
MOST_LISTED = 2_000  # entries of one list in a schema
MOST_MIXED = 200  # of one whose entries have no order: validators compare some of these pair by pair
MOST_RANGES = 100_000  # of characters that the classes of one pattern have together
MOST_EFFORT = 1e6  # ways that a backtracking matcher may have to try: a second at most


class Meter:
    """Counts states and steps of one compilation; ConstraintError when there are too many."""

    def __init__(self, states: int = MOST_STATES, work: int = MOST_WORK) -> None:
        self.states, self.work = states, work

    def state(self) -> None:
        self.states -= 1
        if self.states < 0:
            raise ConstraintError(f"the constraint is too large: its automaton has more than {MOST_STATES} states")

    def spend(self, steps: int = 1) -> None:
        self.work -= steps
        if self.work < 0:
            raise ConstraintError("the constraint is too large: building its automaton takes too many steps")
