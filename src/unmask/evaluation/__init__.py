"""What a model can do, measured: suites by name, each from a loaded model to plain numbers and tables."""

SUITES = ("diffusion",)


def check_suite(name: str) -> str:
    """The name; ValueError, naming those there are, for any other."""
    if name not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {name!r}")
    return name
