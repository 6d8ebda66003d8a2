"""Write `Registry` from `AsyncRegistry`, so that each method of the client is written once.

    python -m tools.sync_client

Every public method becomes a blocking method with the same parameters and docstring. Its body passes the arguments on.
`make format` runs this program, and a test checks that the committed file is up to date.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "app" / "model_registry_client"
SOURCE = CLIENT / "async_registry.py"
TARGET = CLIENT / "registry.py"

_BEGIN = '''"""The registry for code without an event loop.

Generated from async_registry.py by `make format`. Edit that file, not this one.
"""

from collections.abc import Iterator
from model_registry_client.async_registry import UNSET, Unset
from model_registry_client.blocking import BlockingClient
'''
_CLASS = '''
class Registry(BlockingClient):
    """A client of the registry at `url`, or at the URL in the settings. The methods are those of `AsyncRegistry`.

    Threads can share one client, and it works after `fork`. You do not have to close it before the process ends.
    """
'''


def generated() -> str:
    """The text of registry.py as it should be now."""
    source = SOURCE.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    [client] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AsyncRegistry"]
    text = "\n".join([_BEGIN, *imports, _CLASS, *_methods(client, source.splitlines())])
    # Ruff removes the imports that only the source needs, and formats the rest.
    return _ruff("format", text=_ruff("check", "--fix", "--select", "F401,I", text=text))


def _methods(client: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    methods = [each for each in client.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    for method in methods:
        if not method.name.startswith("_") and method.name != "aclose":
            yield _method(method, lines)


def _method(method: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Decorators, signature and docstring as they are written, and a body that passes the arguments on."""
    first = min([method.lineno, *(decorator.lineno for decorator in method.decorator_list)])
    has_docstring = ast.get_docstring(method) is not None
    last = (method.body[0].end_lineno or 0) if has_docstring else method.body[0].lineno - 1
    head = "\n".join(lines[first - 1 : last]).replace("async def ", "def ", 1).replace("-> Pages[", "-> Iterator[", 1)
    return f"{head}\n        {_body(method)}\n"


def _body(method: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    wanted = f"self._registry.{method.name}"
    if method.decorator_list:  # a property
        return f"return {wanted}"
    positional = [each.arg for each in method.args.args[1:]]
    named = [f"{each.arg}={each.arg}" for each in method.args.kwonlyargs]
    call = f"{wanted}({', '.join(positional + named)})"
    returns = ast.unparse(method.returns) if method.returns else ""
    if isinstance(method, ast.AsyncFunctionDef):
        return f"self._wait({call})" if returns == "None" else f"return self._wait({call})"
    return f"return self._items({call})" if returns.startswith("Pages[") else f"return {call}"


def _ruff(*arguments: str, text: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, check=True, text=True, encoding="utf-8").stdout


if __name__ == "__main__":
    TARGET.write_text(generated(), encoding="utf-8")
