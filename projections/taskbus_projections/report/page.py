"""The page: a report as one HTML file that needs nothing else, readable in light and dark, and in print.

Every text is escaped by the template, and the file's own policy forbids it to load or run anything. Called by
`bus report --html`; needs the extra `report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.cli.rendering import visible
from taskbus.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus_projections.report.parts import Document


def written(document: Document, now: datetime) -> str:
    """The report as HTML. Raises UsageError where the extra is not installed."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

        from taskbus_projections.report.plots import drawn

        plots = {plot.name: Markup(drawn(plot)) for section in document.sections for plot in section.plots}  # noqa: S704 - pygal escapes what stands in it
    except ImportError as error:
        message = f"A report as HTML needs jinja2 and pygal, which are not installed ({error})."
        advice = 'Install them with the extra: pip install "taskbus[report]". Without --html it is Markdown.'
        raise UsageError(message, advice=advice) from error
    environment = Environment(
        loader=PackageLoader("taskbus_projections.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = visible
    return environment.get_template("page.html").render(
        document=document, plots=plots, written=f"{now:%Y-%m-%d %H:%M} UTC"
    )
