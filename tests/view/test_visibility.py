"""The pictures of who sees whom: every cell is what the rule says of that pair of rows, every plan a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.view.visibility import View, picture, shades, views
from unmask.visibility import visible


@pytest.mark.parametrize("view", views(), ids=lambda view: view.title.partition(":")[0])
def test_every_cell_is_what_the_rule_says(view: View) -> None:
    rows = [(number, row) for number, span in enumerate(view.spans) for row in range(len(span.tokens))]
    cells = shades(view)
    assert cells.shape == (len(rows), view.kept + len(rows))
    assert (cells[:, : view.kept] == 3).all()
    for i, query in enumerate(rows):
        for j, key in enumerate(rows):
            kind = 2 if view.spans[query[0]].full else 1
            assert cells[i, view.kept + j] == (kind if visible(view.spans, query, key) else 0)


def test_the_views_show_what_their_titles_say() -> None:
    by_title = {view.title.replace("\n", " "): view for view in views()}
    ar = by_title["ar: one token"]
    assert ([len(span.tokens) for span in ar.spans], ar.kept) == ([1], 7)
    fused = by_title["fastdiffuser: commit a block, denoise the next"]
    assert [(len(span.tokens), span.full) for span in fused.spans] == [(4, False), (4, True)]
    verify = by_title["linearspec: verify"]
    assert [span.full for span in verify.spans] == [False]
    assert len(verify.spans[0].tokens) > 1
    quad = by_title["quadspec: verify, and draft for every possible acceptance"]
    assert len(quad.spans) == 1 + len(quad.spans[0].tokens)
    training = by_title["training: clean tokens, then their noised blocks"]
    assert not training.spans[0].full
    assert all(span.full and span.masked for span in training.spans[1:])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `eval`")
    figure = picture()
    figure.savefig(tmp_path / "one.png", dpi=40)
    assert (tmp_path / "one.png").stat().st_size > 1000
    assert [axis.get_title() for axis in figure.axes] == [view.title for view in views()]
