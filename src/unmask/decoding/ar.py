"""Autoregressive decoding: one token, causal, keep 1. The prompt's last chunk gives the first token."""

from __future__ import annotations

from unmask.decoding.common import (
    allowed_at,
    causal_span,
    make_plan,
    places,
    prefill,
    read_causal,
    settle,
    step_of,
    token_of,
)
from unmask.types import Outcome, Plan, Request, Rows, State


def start(request: Request) -> State:
    return State(request, matcher=request.constraint)


def need(state: State) -> Plan:
    ids = state.ids
    if chunk := prefill(state, len(ids)):
        return chunk
    return make_plan(
        state,
        (causal_span(state.request, ids[state.kept :], state.place),),
        (read_causal(state.request, 0, (len(ids) - state.kept - 1,), allowed_at(state, places(state, ()))),),
    )


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    emit = tuple(token_of(row, step_of(state)) for row in rows)
    return settle(state, plan, keep=plan.rows, emit=emit, round=bool(emit))
