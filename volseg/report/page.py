"""Self-contained HTML pages: one look, no script, no request, everything that comes from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template of ``templates/``.

    Parameters
    ----------
    template : str
        Its file name; it extends ``page.html`` (blocks ``title``, ``style`` and ``body``), whose own policy forbids scripts and requests.
    content : mapping
        What the template names; a name it does not hold is an error. The version of volseg is there as ``version``.

    Returns
    -------
    str
        The page.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from volseg import __version__

    # Series descriptions, file names and label names come from outside: everything is escaped.
    environment = Environment(loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render({"version": __version__, **content})


def _read(name: str) -> str:
    return files("volseg.report").joinpath("templates", name).read_text(encoding="utf-8")
