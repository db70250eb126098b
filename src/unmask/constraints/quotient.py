"""What may stand before a given suffix: the texts x of which x + suffix is in a language, as a grammar of its own.

A rule becomes, beside itself, a rule for each place of the suffix at which it may end if the text ends inside it: from
there on it reads the suffix, which costs nothing. All else, masks and budgets too, works on that grammar as on any.
"""

from __future__ import annotations

from collections.abc import Iterable

from unmask.constraints.limits import Meter
from unmask.constraints.rules import FINAL, START, Rule

Place = tuple[int, int]  # (state of a rule, bytes of the suffix that are read)


def before_suffix(rules: dict[str, Rule], start: str, suffix: bytes, meter: Meter) -> tuple[dict[str, Rule], str]:
    """The rules of the texts before `suffix`, and the name of their start. Rules as `rules.build` makes them."""
    ends = ends_within(rules, suffix, meter)
    stops = stops_of(rules, suffix, ends, meter)
    made, waiting = dict(rules), [(start, len(suffix))]
    while waiting:
        name, stop = waiting.pop()
        if named(name, stop) not in made:
            made[named(name, stop)], calls = split(rules[name], stop, suffix, ends, stops, meter)
            waiting += calls
    return made, named(start, len(suffix))


def named(rule: str, stop: int) -> str:
    return f"{rule} / {stop}"


Ends = dict[tuple[str, int], frozenset[int]]


def ends_within(rules: dict[str, Rule], suffix: bytes, meter: Meter) -> Ends:
    """Per rule and place of the suffix: where the rule may end if it begins there, other than at once: beside a call of
    a rule that may be empty there is a skip."""
    ends: Ends = {}

    def of(name: str, since: int) -> frozenset[int]:
        # What begins later is known already; at one place rules do not call each other in a circle.
        if (name, since) not in ends:
            reached = walk(rules[name], [(START, since)], suffix, of, meter)
            ends[name, since] = frozenset(at for state, at in reached if state == FINAL and at > since)
        return ends[name, since]

    for since in range(len(suffix), -1, -1):
        for name in rules:
            of(name, since)
    return ends


def walk(rule: Rule, begin: Iterable[Place], suffix: bytes, of, meter: Meter) -> set[Place]:  # type: ignore[no-untyped-def]
    """All places reached from some by reading the suffix on. of: where a called rule may end."""
    seen = set(begin)
    stack = list(seen)
    while stack:
        state, at = stack.pop()
        meter.spend()
        for place in onward(rule, state, at, suffix, of, meter):
            if place not in seen:
                seen.add(place)
                stack.append(place)
    return seen


def onward(  # type: ignore[no-untyped-def]
    rule: Rule, state: int, at: int, suffix: bytes, of, meter: Meter
) -> list[Place]:
    found = [(to, at) for to in rule.skips[state]]
    if at < len(suffix):
        found += [(to, at + 1) for low, high, to in rule.bytes[state] if low <= suffix[at] <= high]
    for callee, to in rule.calls[state]:
        ends = of(callee, at)
        meter.spend(len(ends))  # as many as the rest of the suffix has bytes
        found += [(to, end) for end in ends]
    return found


def stops_of(rules: dict[str, Rule], suffix: bytes, ends: Ends, meter: Meter) -> dict[str, frozenset[int]]:
    """Per rule: where it may end if the text ends inside it."""
    stops: dict[str, frozenset[int]] = dict.fromkeys(rules, frozenset())
    users = dict[str, set[str]]()
    for name, rule in rules.items():
        for calls in rule.calls:
            for callee, _ in calls:
                users.setdefault(callee, set()).add(name)
    waiting = dict.fromkeys(rules)
    while waiting:
        name, _ = waiting.popitem()
        rule = rules[name]
        begin = {(state, 0) for state in range(len(rule.skips))}
        begin |= {(to, stop) for calls in rule.calls for callee, to in calls for stop in stops[callee]}
        reached = walk(rule, begin, suffix, lambda callee, at: ends[callee, at], meter)
        found = frozenset(at for state, at in reached if state == FINAL)
        if found != stops[name]:
            stops[name] = found
            waiting.update(dict.fromkeys(users.get(name, ())))
    return stops


def split(
    rule: Rule, stop: int, suffix: bytes, ends: Ends, stops: dict[str, frozenset[int]], meter: Meter
) -> tuple[Rule, list[tuple[str, int]]]:
    """The rule whose text ends inside it, and which reads the suffix up to `stop`; and the rules of that kind that it
    calls."""
    made, called = Rule(), set[tuple[str, int]]()
    # Its own states before the end of the text, and places of the suffix after it.
    own = [made.add(meter) for _ in rule.skips]
    places = dict[Place, int]()

    def place(state: int, at: int) -> int:
        if (state, at) not in places:
            places[state, at] = FINAL if (state, at) == (FINAL, stop) else made.add(meter)
            waiting.append((state, at))
        return places[state, at]

    waiting = list[Place]()
    made.skips[START].append(own[START])
    for state, copy in enumerate(own):
        made.skips[copy] += [own[to] for to in rule.skips[state]]
        made.bytes[copy] += [(low, high, own[to]) for low, high, to in rule.bytes[state]]
        made.calls[copy] += [(callee, own[to]) for callee, to in rule.calls[state]]
        for callee, to in rule.calls[state]:
            for inner in sorted(stops[callee] - {0}):  # at 0 it is an ordinary call, and the text ends after it
                called.add((callee, inner))
                made.calls[copy].append((named(callee, inner), place(to, inner)))
        made.skips[copy].append(place(state, 0))
    while waiting:
        state, at = waiting.pop()
        meter.spend()
        if (state, at) != (FINAL, stop):
            for to, after in onward(rule, state, at, suffix, lambda callee, since: ends[callee, since], meter):
                made.skips[places[state, at]].append(place(to, after))
    return made, sorted(called)
