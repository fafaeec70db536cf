"""The HTML page: one self-contained file that opens offline, in light and dark.

``rows`` brings decision and measurements together; ``svg`` has scales, marks and label placement; ``pareto``,
``distribution`` and ``conditions`` are the plots; ``tables`` the tables beside them; ``style`` the look; ``page`` the
whole. Rendering is pure: text in, text out.
"""

from agent.report.html.page import render
from agent.report.html.rows import ReportInput, TaskReport

__all__ = ["ReportInput", "TaskReport", "render"]
