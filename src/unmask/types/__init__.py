"""The words of the system: requests, states, spans, plans, rows, outcomes.

Plain frozen data, standard library only. Text, HTTP, pages and tensors are unknown here.
"""

from unmask.types.constraint import Choices, IdSet, Matcher, Verdict, contains
from unmask.types.plan import FinishReason, Outcome, Plan, Read, Row, Rows, Span
from unmask.types.request import Draft, Frame, Request, Slot, SlotState, State, Stats, Token
from unmask.types.settings import Diffusion, Ids, Sampling, Speculation, Traits

__all__ = [
    "Choices",
    "Diffusion",
    "Draft",
    "FinishReason",
    "Frame",
    "IdSet",
    "Ids",
    "Matcher",
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
    "Verdict",
    "contains",
]
