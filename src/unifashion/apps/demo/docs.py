"""The API's page of documentation, written from its OpenAPI description; no script, nothing from the network."""

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

SHELL = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
ERRORS = {
    400: "what was sent cannot be used",
    401: "the password is missing or wrong",
    404: "no such product, address or model",
    413: "a picture, text or body above its limit",
    500: "a bug; the log of the server has it",
    503: "too many at once; <code>Retry-After</code> says when to come back",
}
ANSWER = """{"hits": [{"id": "17", "image": "/api/items/17/image", "metadata": {"price": 49.9}, "score": 0.83}],
 "remarks": []}"""


def style() -> str:
    """Return the style sheet that all pages share."""
    return files("unifashion.apps.demo").joinpath("style.css").read_text(encoding="utf-8")


def docs_route(app: FastAPI, example: str) -> APIRouter:
    """Return /api/docs; ``example`` is the address that its commands name."""
    router = APIRouter()

    @router.get("/api/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi(), example))

    return router


def page(schema: dict[str, Any], example: str) -> str:
    """Return the page of an OpenAPI description."""
    parts = [
        _operation(path, method.upper(), operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    command = (
        f"curl -s {example}/api/search -H 'Content-Type: application/json' \\\n"
        '     -d \'{"text": "red floral dress", "k": 5, "filter": "price < 50"}\''
    )
    errors = "".join(f"<tr><td><code>{code}</code></td><td>{words}</td></tr>" for code, words in ERRORS.items())
    body = (
        f"<h1>UniFashion API</h1><p>{escape(schema['info']['description'])}</p><pre>{escape(command)}</pre>"
        f"<pre>{escape(ANSWER)}</pre>"
        "<p>Where a password is set, add <code>-H 'Authorization: Bearer PASSWORD'</code>. "
        'Machines read <a href="openapi.json">openapi.json</a>; people search <a href="../">here</a>.</p>'
        f'<p>An error is <code>{{"error": "a sentence"}}</code> with one of these codes:</p><table>{errors}</table>'
    )
    head = f"{SHELL}<title>UniFashion API</title><style>{style()}</style>"
    return f"{head}<body class=uf-plain>{body}{''.join(parts)}</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    codes = ", ".join(f"<code>{escape(code)}</code>" for code in operation["responses"] if code not in ("200", "422"))
    asked = [
        (parameter["name"], parameter["schema"], parameter.get("description", "in the address"))
        for parameter in operation.get("parameters", [])
    ]
    if "requestBody" in operation:
        body = _resolve(operation["requestBody"]["content"]["application/json"]["schema"], schema)
        asked += [(name, field, field.get("description", "")) for name, field in body["properties"].items()]
    fields = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field))}</td><td>{_text(words)}</td></tr>"
        for name, field, words in asked
    )
    return (
        f"<section><h2><span>{method}</span> <code>{escape(path)}</code></h2><p>{_text(operation.get('description', ''))}</p>"
        f"{f'<table>{fields}</table>' if fields else ''}<p>Answer: {_answer(operation['responses']['200'], schema)}"
        f"{f' Errors: {codes}.' if codes else ''}</p></section>"
    )


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = part.get("$ref", "").rpartition("/")[2]
    return dict(schema["components"]["schemas"][name]) if name else part


def _kind(field: dict[str, Any]) -> str:
    kinds = [str(choice.get("type")) for choice in field.get("anyOf", [field])]
    default = f" = {json.dumps(field['default'])}" if "default" in field else ""
    return " or ".join(kinds).replace("null", "nothing") + default


def _answer(answer: dict[str, Any], schema: dict[str, Any]) -> str:
    content = answer.get("content", {}).get("application/json", {}).get("schema")
    if not content:
        return "<code>image/jpeg</code>."
    model = _resolve(content, schema)
    return f"<code>{{{', '.join(model['properties'])}}}</code>. {_text(model.get('description', ''))}"


def _text(words: str) -> str:
    """Return a docstring's words as HTML."""
    return re.sub(r"``(.+?)``", r"<code>\1</code>", escape(words))
