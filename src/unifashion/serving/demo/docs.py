"""The API's page of documentation, written from its OpenAPI description; no script, nothing from the network."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

SHELL = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'


def style() -> str:
    """Return the style sheet that all pages share."""
    return files("unifashion.serving.demo").joinpath("style.css").read_text(encoding="utf-8")


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
        '     -d \'{"text": "red floral dress", "k": 5}\''
    )
    body = (
        f"<h1>UniFashion API</h1><p>{escape(schema['info']['description'])}</p><pre>{escape(command)}</pre>"
        "<p>Where a password is set, add <code>-H 'Authorization: Bearer PASSWORD'</code>. "
        'Machines read <a href="openapi.json">openapi.json</a>; people search <a href="../">here</a>.</p>'
    )
    head = f"{SHELL}<title>UniFashion API</title><style>{style()}</style>"
    return f"{head}<body class=uf-plain>{body}{''.join(parts)}</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    codes = "".join(
        f"<tr><td><code>{escape(code)}</code></td><td>{escape(_answer(answer, schema))}</td></tr>"
        for code, answer in operation["responses"].items()
        if code != "422"
    )
    asked = [
        (parameter["name"], f"in the {parameter['in']}", parameter["schema"], parameter.get("description", ""))
        for parameter in operation.get("parameters", [])
    ]
    if "requestBody" in operation:
        body = _resolve(operation["requestBody"]["content"]["application/json"]["schema"], schema)
        asked += [
            (name, "in the body", field, field.get("description", "")) for name, field in body["properties"].items()
        ]
    fields = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field))}, {place}</td><td>{escape(words)}</td></tr>"
        for name, place, field, words in asked
    )
    return (
        f"<section><h2><span>{method}</span> <code>{escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
        f"{f'<table>{fields}</table>' if fields else ''}<table>{codes}</table></section>"
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
        return "image/jpeg"
    model = _resolve(content, schema)
    return f"{{{', '.join(model.get('properties', {}))}}}: {model.get('description', '')}"
