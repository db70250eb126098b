"""DecayBench: what becomes of an answer as the rules that it has to obey grow in number.

Tasks of two tiers, rules that are judged by machine, ways to enforce them, and the statistics over them.
"""
