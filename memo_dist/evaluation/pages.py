"""HTML pages that need no network and no script, in one style."""

from __future__ import annotations

from typing import Any

import jinja2

from memo_dist.evaluation.charts import COLOURS
from memo_dist.evaluation.table import percent
from memo_dist.observability.progress import duration


def render_page(template: str, package: str, **values: Any) -> str:
    """One of a package's templates as a page; every value is escaped.

    Args:
        template: file name below the package's ``templates``; may include ``style.css.j2``.
        package: dotted name.
        values: what the template shows; one that it misses is an error.
    """
    loaders = [jinja2.PackageLoader(name) for name in (package, "memo_dist.evaluation")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=percent, duration=duration, thousands=_thousands)
    return environment.get_template(template).render(colours=COLOURS, **values)


def _thousands(value: int | float) -> str:
    return f"{value:,.0f}"
