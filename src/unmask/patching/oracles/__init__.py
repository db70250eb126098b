"""Oracles that people would use on code: `types.Oracle` each, so whoever judges text may ask them.

syntax, python (names, imports), calls (and layers), orm (SQLAlchemy), tools (ruff, mypy), commands (start-up, tests).
"""
