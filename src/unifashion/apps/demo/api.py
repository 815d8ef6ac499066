r"""The JSON API.

    curl -s localhost:7860/api/search -H 'Content-Type: application/json' -d '{"text": "red floral dress", "k": 5}'
    curl -s localhost:7860/api/search -H 'Content-Type: application/json' -d '{"image_id": "17", "text": "in blue"}'
    echo "{\"image\": \"$(base64 -w0 photo.jpg)\"}" | curl -s localhost:7860/api/caption -H 'Content-Type: application/json' -d @-
    curl -s localhost:7860/api/items/17                        # metadata; .../17/image is the picture as JPEG

Items are named by their ids, never by paths. Every error is ``{"error": "a sentence"}`` with a status of ``ERRORS``. FastAPI
writes openapi.json from the routes and models of this file, and /api/docs shows it.
"""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException

from unifashion.apps.demo.errors import RequestError, explain
from unifashion.apps.demo.html import render
from unifashion.apps.demo.middleware import error_response
from unifashion.apps.demo.service import SearchQuery, Service
from unifashion.apps.demo.settings import RETRY_AFTER
from unifashion.errors import UserError
from unifashion.search import Hit
from unifashion.search.items import Item

ERRORS = {
    400: "the request cannot be used",
    401: "the password is missing or wrong",
    403: "sent by a page of another site",
    404: "no such product, address or model",
    408: "it took too long to arrive",
    413: "a picture, text or body above its limit",
    421: "sent to a name that is not known here",
    429: "too many requests at once from one address; Retry-After says when to come back",
    500: "a bug; see the log of the server",
    503: "too many requests at once; Retry-After says when to come back",
}
EXAMPLE_HIT: JsonDict = {"id": "17", "image": "/api/items/17/image", "metadata": {"price": 49.9}, "score": 0.83}


class PictureRequest(BaseModel):
    """A picture: that of a product in the index, or an uploaded one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image_id": "17"}]})
    image_id: str | None = Field(None, description="id of a product in the index, for its picture")
    image: str | None = Field(None, description="a picture as base64 (JPEG, PNG, WebP, GIF, BMP) or as a data: URL")


class SearchRequest(PictureRequest):
    """A query: ``text``, a picture (``image_id`` or ``image``), or a picture and in ``text`` what should change about it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "red floral dress", "k": 5, "filter": "price < 50"}]}
    )
    text: str = Field("", description="words, or what should change about the picture")
    k: int = Field(10, description="how many products are returned")
    filter: str = Field("", description="a condition on the metadata: price < 50 and category == 'dress'")
    rerank: int = Field(0, description="how many of the first hits the matching head re-ranks; 0 = off")


class ItemAnswer(BaseModel):
    """The image is the address of the picture."""

    id: str
    image: str
    metadata: dict[str, Any]


class HitAnswer(ItemAnswer):
    """An item with its score, a similarity of at most 1."""

    score: float


class SearchAnswer(BaseModel):
    """The hits come best first; the remarks say which of the words the model could not read."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hits": [EXAMPLE_HIT], "remarks": []}]})
    hits: list[HitAnswer]
    remarks: list[str]


class CaptionAnswer(BaseModel):
    """The caption is a sentence."""

    caption: str


class HealthAnswer(BaseModel):
    """The status is "ok"; the rest says what is served."""

    status: str
    items: int
    model: str
    fields: dict[str, str]
    captions: bool
    tryon: bool


class ErrorAnswer(BaseModel):
    """Why there is no answer, and what would help."""

    error: str


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorAnswer, "description": ERRORS[code]} for code in codes}


def _item(item: Item | Hit) -> dict[str, Any]:
    return {"id": item.id, "image": f"/api/items/{quote(item.id, safe='')}/image", "metadata": item.metadata}


def _picture(service: Service, request: PictureRequest) -> Image.Image | None:
    if request.image_id is not None and request.image is not None:
        raise RequestError("Give image_id or image, not both.")
    if request.image_id is not None:
        return service.photo(request.image_id)
    return None if request.image is None else service.upload(request.image)


def routes(service: Service) -> APIRouter:
    """Return the routes below /api."""
    router = APIRouter(prefix="/api")
    item_path = Path(description="id of a product")

    # Routes are plain functions, not coroutines: FastAPI runs those in threads, where a model may be slow and
    # Service's locks may block. An id may hold slashes: %2F is decoded before routes are matched, hence ":path".

    @router.post("/search", responses=_errors(400, 401, 404, 413, 503))
    def search(request: SearchRequest) -> SearchAnswer:
        """Search by words, by picture, or by picture and words."""
        image = _picture(service, request)
        hits = service.search(SearchQuery(request.text, image, request.k, request.filter, request.rerank))
        answers = [HitAnswer(**_item(hit), score=hit.score) for hit in hits]
        return SearchAnswer(hits=answers, remarks=service.remarks(request.text))

    @router.post("/caption", responses=_errors(400, 401, 404, 413, 503))
    def caption(request: PictureRequest) -> CaptionAnswer:
        """Describe a picture with the captioning model."""
        image = _picture(service, request)
        if image is None:
            raise RequestError("Nothing to describe: give image_id or image.")
        return CaptionAnswer(caption=service.caption(image))

    @router.get(
        "/items/{item_id:path}/image",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **_errors(400, 401, 404)},
    )
    def image(
        item_id: Annotated[str, item_path],
        side: Annotated[int, Query(description="pixels of the longer side: 240, 480 or 960")] = 480,
    ) -> Response:
        """Return the picture of a product, as JPEG."""
        jpeg = service.thumbnail(item_id, side)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/items/{item_id:path}", responses=_errors(401, 404))
    def item(item_id: Annotated[str, item_path]) -> ItemAnswer:
        """Return a product and its metadata."""
        return ItemAnswer(**_item(service.item(item_id)))

    @router.get("/health", responses=_errors(401))
    def health() -> HealthAnswer:
        """Say whether the service is up, and what it serves."""
        return HealthAnswer(status="ok", **service.about())

    @router.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        address = str(request.base_url).rstrip("/")  # as the client reaches this server, not as it listens (0.0.0.0)
        return HTMLResponse(render("docs", schema=request.app.openapi(), errors=ERRORS, address=address))

    known = [route.path_regex for route in router.routes if isinstance(route, APIRoute)]

    # The page is mounted at "/" behind these routes and would answer whatever they do not, such as a GET of /api/search.
    @router.api_route(
        "/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
    )
    def nothing(request: Request) -> None:
        raise HTTPException(405 if any(pattern.match(request.url.path) for pattern in known) else 404)

    return router


def install_errors(app: FastAPI) -> None:
    """Make every error of ``app`` a sentence with a status."""
    install_malformed(app)

    @app.exception_handler(UserError)
    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        status, message = explain(error, f"{request.method} {request.url.path}")
        return error_response(status, message, {"Retry-After": str(RETRY_AFTER)} if status == 503 else None)

    @app.exception_handler(HTTPException)
    def not_served(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"There is no {request.method} {request.url.path[:200]}; see /api/docs."
        return error_response(error.status_code, message, error.headers)


def install_malformed(app: FastAPI) -> None:
    """Say in a sentence why a body cannot be used: FastAPI's own answer repeats the body, and fails where that is no text."""

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return error_response(400, f"{field}: {first['msg']}; see /api/docs.")
