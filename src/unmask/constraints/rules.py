"""Grammar trees -> one nondeterministic automaton per rule, whose edges are byte ranges and calls of other rules.

Here a grammar is made fit for the rest: rules that yield nothing are dropped, empty ones may be skipped, left recursion
becomes loops (Paull's algorithm on automata), so that a rule never calls itself before it has read a byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from unmask.constraints.expr import Alt, Bytes, Chars, ConstraintError, Expr, Repeat, Seq, Source, utf8
from unmask.constraints.limits import Meter

START, FINAL = 0, 1


@dataclass(slots=True)
class Rule:
    """One rule: state 0 begins, state 1 ends. Per state: empty edges, (low, high, to) bytes, (rule, to) calls."""

    skips: list[list[int]] = field(default_factory=lambda: [[], []])
    bytes: list[list[tuple[int, int, int]]] = field(default_factory=lambda: [[], []])
    calls: list[list[tuple[str, int]]] = field(default_factory=lambda: [[], []])

    def add(self, meter: Meter) -> int:
        meter.state()
        self.skips.append([])
        self.bytes.append([])
        self.calls.append([])
        return len(self.skips) - 1

    def move(self, state: int, meter: Meter) -> int:
        """A new state with the edges of `state`, which has none then."""
        moved = self.add(meter)
        self.skips[moved], self.skips[state] = self.skips[state], []
        self.bytes[moved], self.bytes[state] = self.bytes[state], []
        self.calls[moved], self.calls[state] = self.calls[state], []
        return moved

    def closure(self, states: Iterable[int]) -> set[int]:
        """States reached without reading anything."""
        found, stack = set(states), list(states)
        while stack:
            for other in self.skips[stack.pop()]:
                if other not in found:
                    found.add(other)
                    stack.append(other)
        return found


def build(source: Source, meter: Meter) -> dict[str, Rule]:
    """All rules that the start rule needs. Without the start rule among them the language is empty."""
    rules, waiting = dict[str, Rule](), [source.start]
    while waiting:
        name = waiting.pop()
        if name in rules:
            continue
        if name not in source.rules:
            raise ConstraintError(f"the grammar has no rule {name!r}")
        rule = rules[name] = Rule()
        append(rule, source.rules[name], START, FINAL, meter)
        waiting += [callee for calls in rule.calls for callee, _ in calls]
    return without_left_recursion(productive(rules), meter)


def append(rule: Rule, expr: Expr, begin: int, end: int, meter: Meter) -> None:
    """Add paths from `begin` to `end` that read what `expr` says."""
    if isinstance(expr, Bytes):
        for byte in expr.data[:-1]:
            step = rule.add(meter)
            rule.bytes[begin].append((byte, byte, step))
            begin = step
        if expr.data:
            rule.bytes[begin].append((expr.data[-1], expr.data[-1], end))
        else:
            rule.skips[begin].append(end)
    elif isinstance(expr, Chars):
        for low, high in expr.ranges:
            for sequence in utf8(low, high):
                place = begin
                for first, last in sequence[:-1]:
                    step = rule.add(meter)
                    rule.bytes[place].append((first, last, step))
                    place = step
                rule.bytes[place].append((*sequence[-1], end))
    elif isinstance(expr, Seq):
        for part in expr.parts[:-1]:
            step = rule.add(meter)
            append(rule, part, begin, step, meter)
            begin = step
        if expr.parts:
            append(rule, expr.parts[-1], begin, end, meter)
        else:
            rule.skips[begin].append(end)
    elif isinstance(expr, Alt):
        for part in expr.parts:
            # States of its own, so that a loop inside a part does not leak into the others.
            first, last = rule.add(meter), rule.add(meter)
            rule.skips[begin].append(first)
            rule.skips[last].append(end)
            append(rule, part, first, last, meter)
    elif isinstance(expr, Repeat):
        repeat(rule, expr, begin, end, meter)
    else:
        rule.calls[begin].append((expr.name, end))


def repeat(rule: Rule, expr: Repeat, begin: int, end: int, meter: Meter) -> None:
    for _ in range(expr.least):
        step = rule.add(meter)
        append(rule, expr.body, begin, step, meter)
        begin = step
    if expr.most is None:
        # A state that nothing else touches carries the loop.
        loop, back = rule.add(meter), rule.add(meter)
        rule.skips[begin].append(loop)
        append(rule, expr.body, loop, back, meter)
        rule.skips[back].append(loop)
        rule.skips[loop].append(end)
        return
    for _ in range(expr.least, expr.most):
        rule.skips[begin].append(end)
        step = rule.add(meter)
        append(rule, expr.body, begin, step, meter)
        begin = step
    rule.skips[begin].append(end)


def fixpoint(rules: dict[str, Rule], through_bytes: bool) -> set[str]:
    """Names of rules whose end can be reached over empty edges, calls of such rules and, if asked, bytes."""
    users = dict[str, set[str]]()
    for name, rule in rules.items():
        for calls in rule.calls:
            for callee, _ in calls:
                users.setdefault(callee, set()).add(name)
    found, waiting = set[str](), list(rules)
    while waiting:
        name = waiting.pop()
        if name in found or not reaches_end(rules[name], found, through_bytes):
            continue
        found.add(name)
        waiting += users.get(name, ())
    return found


def reaches_end(rule: Rule, known: set[str], through_bytes: bool) -> bool:
    seen, stack = {START}, [START]
    while stack:
        state = stack.pop()
        if state == FINAL:
            return True
        targets = [*rule.skips[state], *(to for callee, to in rule.calls[state] if callee in known)]
        if through_bytes:
            targets += [to for _, _, to in rule.bytes[state]]
        for to in targets:
            if to not in seen:
                seen.add(to)
                stack.append(to)
    return False


def productive(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Rules that yield some text, and a skip beside every call of one that yields the empty text."""
    useful = fixpoint(rules, through_bytes=True)
    empty = fixpoint(rules, through_bytes=False)
    for rule in rules.values():
        for state, calls in enumerate(rule.calls):
            rule.calls[state] = [(callee, to) for callee, to in calls if callee in useful]
            rule.skips[state] += [to for callee, to in calls if callee in empty]
    return {name: rule for name, rule in rules.items() if name in useful}


def needed(rules: dict[str, Rule], start: str) -> dict[str, Rule]:
    """The rules that the start rule can reach."""
    found, waiting = dict[str, Rule](), [start] if start in rules else []
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = rules[name]
            waiting += [callee for calls in rules[name].calls for callee, _ in calls]
    return found


def left_calls(rule: Rule) -> set[str]:
    return {callee for state in rule.closure([START]) for callee, _ in rule.calls[state]}


def without_left_recursion(rules: dict[str, Rule], meter: Meter) -> dict[str, Rule]:
    for group in cycles({name: left_calls(rule) for name, rule in rules.items()}):
        for i, name in enumerate(group):
            rule = rules[name]
            own_start(rule, meter)
            for earlier in group[:i]:
                unfold(rule, earlier, rules[earlier], meter)
            for _, to in take_calls(rule, name):
                rule.skips[FINAL].append(to)
            # What follows the end is a loop; the end itself must stay an end for callers only.
            if rule.skips[FINAL]:
                own_end(rule, meter)
    return rules


def own_start(rule: Rule, meter: Meter) -> None:
    """Give the start its own copies of all edges of its closure, and no edge into it."""
    moved = rule.move(START, meter)
    for state in range(len(rule.skips)):
        rule.skips[state] = [moved if to == START else to for to in rule.skips[state]]
        rule.bytes[state] = [(low, high, moved if to == START else to) for low, high, to in rule.bytes[state]]
        rule.calls[state] = [(callee, moved if to == START else to) for callee, to in rule.calls[state]]
    for state in rule.closure([moved]):
        rule.bytes[START] += rule.bytes[state]
        rule.calls[START] += rule.calls[state]
        if state == FINAL:
            rule.skips[START].append(FINAL)


def take_calls(rule: Rule, callee: str) -> list[tuple[str, int]]:
    """Remove the calls of `callee` from the start and return them."""
    taken = [call for call in rule.calls[START] if call[0] == callee]
    rule.calls[START] = [call for call in rule.calls[START] if call[0] != callee]
    return taken


def own_end(rule: Rule, meter: Meter) -> None:
    """A fresh end with no edges; what used to be the end leads to it. The empty text goes straight there: what may
    follow it at once has already been copied to the start."""
    old = rule.move(FINAL, meter)
    for state in range(len(rule.skips)):
        if state != START:
            rule.skips[state] = [old if to == FINAL else to for to in rule.skips[state]]
        rule.bytes[state] = [(low, high, old if to == FINAL else to) for low, high, to in rule.bytes[state]]
        rule.calls[state] = [(name, old if to == FINAL else to) for name, to in rule.calls[state]]
    rule.skips[old].append(FINAL)


def unfold(rule: Rule, callee: str, body: Rule, meter: Meter) -> None:
    """Replace calls of `callee` at the start by copies of its automaton, whose start has edges of its own."""
    for _, to in take_calls(rule, callee):
        names = [rule.add(meter) for _ in body.skips]
        meter.spend(len(names))
        for state, copy in enumerate(names):
            rule.skips[copy] += [names[other] for other in body.skips[state]]
            rule.bytes[copy] += [(low, high, names[other]) for low, high, other in body.bytes[state]]
            rule.calls[copy] += [(name, names[other]) for name, other in body.calls[state]]
        rule.skips[names[FINAL]].append(to)
        # That the body may be empty has been dealt with by a skip beside the call.
        rule.bytes[START] += rule.bytes[names[START]]
        rule.calls[START] += rule.calls[names[START]]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rules that reach each other (Tarjan), without those that do not reach themselves."""
    index, low, on_stack, stack = dict[str, int](), dict[str, int](), set[str](), list[str]()
    groups = list[list[str]]()
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(sorted(graph[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, others = work[-1]
            for other in others:
                if other not in graph:
                    continue
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in on_stack:
                    low[name] = min(low[name], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    cut = stack.index(name)
                    group, stack = stack[cut:], stack[:cut]
                    on_stack -= set(group)
                    if len(group) > 1 or name in graph[name]:
                        groups.append(group)
    return groups
