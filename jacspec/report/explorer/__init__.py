"""The part of a page on which runs are explored: one function from labelled runs to Markup.

| file           | holds                                                               |
|----------------|---------------------------------------------------------------------|
| `section.py`   | `explore`: which runs go on one page, and what the page says first  |
| `samples.py`   | the data of runs over samples                                       |
| `matrices.py`  | the data of runs over weight matrices and heads                     |
| `room.py`      | how many singular values a page holds, and how they are written     |
| `embedding.py` | scripts, data and styles on the page, and the policy that fences it |
| `views.js`     | what all views need: words, scales, controls                        |
| `sample_views.js`, `matrix_views.js`, `head_views.js`, `comparison.js` | what each view draws, says, tabulates |
| `explorer.js`  | the controls, and starting                                          |
| `explorer.css` | how it looks, on a screen and on paper                              |

Plotly (https://plotly.com/javascript/) draws. Nothing is fetched: its script is in the page, compressed, as are the
data.
"""

from jacspec.report.explorer.embedding import explorer_style, script_policy
from jacspec.report.explorer.section import explore

__all__ = ["explore", "explorer_style", "script_policy"]
