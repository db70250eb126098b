"""The words of the system: requests, states, spans, plans, rows, outcomes.

Plain frozen data, standard library only. Text, HTTP, pages and tensors are unknown here.
"""

from unmask.types.constraint import Choices, IdSet, Matcher, contains
from unmask.types.oracle import Ask, ByteSpan, Finding, Judge, Oracle, Verdict, View, Violation
from unmask.types.plan import Outcome, Plan, Read, Row, Rows, Span
from unmask.types.request import Checked, Draft, Frame, Request, Slot, SlotState, State, Stats, Token, Trial, Try
from unmask.types.settings import Diffusion, FinishReason, Ids, Sampling, Speculation, Traits

__all__ = [
    "Ask",
    "ByteSpan",
    "Checked",
    "Choices",
    "Diffusion",
    "Draft",
    "Finding",
    "FinishReason",
    "Frame",
    "IdSet",
    "Ids",
    "Judge",
    "Matcher",
    "Oracle",
    "Outcome",
    "Plan",
    "Read",
    "Request",
    "Row",
    "Rows",
    "Sampling",
    "Slot",
    "SlotState",
    "Span",
    "Speculation",
    "State",
    "Stats",
    "Token",
    "Traits",
    "Trial",
    "Try",
    "Verdict",
    "View",
    "Violation",
    "contains",
]
