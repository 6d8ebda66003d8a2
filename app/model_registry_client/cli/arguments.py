"""Arguments that several commands take."""

from typing import Annotated

import typer

VersionRef = Annotated[
    str, typer.Argument(metavar="REF", help="NAME (its latest version), NAME:VERSION or NAME@ALIAS.")
]
ExactRef = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="A version by its label.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A model.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A tag; may be repeated.")]
