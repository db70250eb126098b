"""Pictures of what was measured. Needs matplotlib (the extra `eval`), which is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quality_over_speed(found: dict[str, Any]) -> Figure | None:
    """Of the starter suite: log-likelihood under AR, and agreement with AR's text, over tokens per forward.

    One line per kind, a point per threshold of fastdiffuser, AR as a ring. None where fastdiffuser was not run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {kind: curve(ways) for kind, ways in found["kinds"].items()}
    if not any(lines.values()):
        return None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (kind, points) in enumerate((kind, points) for kind, points in lines.items() if points):
        color, ar = f"C{number}", found["kinds"][kind]["ar"]
        for axis, measure in ((left, "log_likelihood"), (right, "agreement")):
            values = [point[measure]["value"] for point in points]
            around = [[point[measure][end] for point in points] for end in ("low", "high")]
            speeds = [point["tpf"]["value"] for point in points]
            axis.plot(speeds, values, "o-", color=color, markersize=3, linewidth=1, label=kind)
            axis.fill_between(speeds, *around, color=color, alpha=0.12, linewidth=0)
            own = ar["log_likelihood"]["value"] if measure == "log_likelihood" else 1.0
            axis.plot([1.0], [own], "o", color=color, markersize=6, fillstyle="none")
    left.set(title="log-likelihood of the text under AR", ylabel="nats per token")
    right.set(title="agreement with AR's greedy text", ylabel="share of the tokens", ylim=(0, 1.03))
    for axis in (left, right):
        axis.set_xlabel("tokens per forward (fastdiffuser by threshold; ring: AR)")
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def curve(ways: dict[str, Any]) -> list[dict[str, Any]]:
    """The measures of fastdiffuser by falling threshold, which is by rising speed if all goes well."""
    return [ways[way] for way in sorted(ways, reverse=True) if way.startswith("fastdiffuser")]
