"""Prompt files: Jinja templates in a package's ``prompts`` folder, plain text and strict."""

from __future__ import annotations

import importlib.resources
from functools import cached_property
from typing import Any

import jinja2


class PromptFiles:
    """The ``*.j2`` files below ``<package>/prompts``."""

    def __init__(self, package: str) -> None:
        """``package`` is a dotted name; its files are read when they are first needed."""
        self._package = package

    def source(self, name: str) -> str:
        """The text of a prompt file, named without its suffix."""
        path = importlib.resources.files(self._package) / "prompts" / f"{name}.j2"
        return path.read_text(encoding="utf-8")

    def render(self, name: str, **values: Any) -> str:
        """Render a prompt file; a value that it needs and does not get is an error."""
        return self._environment.get_template(name).render(**values)

    @cached_property
    def _environment(self) -> jinja2.Environment:
        return jinja2.Environment(
            loader=jinja2.FunctionLoader(self.source),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # noqa: S701 - plain text, never HTML
            keep_trailing_newline=True,
        )
