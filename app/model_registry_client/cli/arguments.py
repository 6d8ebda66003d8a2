"""Arguments and options that several commands share."""

from typing import Annotated

import typer

VersionRef = Annotated[
    str, typer.Argument(metavar="REF", help="NAME:VERSION, NAME@ALIAS, or NAME for the latest version.")
]
ExactRef = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The label of a version.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="The name of a model.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A tag. Repeatable.")]
