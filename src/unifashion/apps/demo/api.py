r"""The JSON API.

    curl -s localhost:7860/api/search -H 'Content-Type: application/json' -d '{"text": "red floral dress", "k": 5}'
    curl -s localhost:7860/api/search -H 'Content-Type: application/json' -d '{"image_id": "17", "text": "in blue"}'
    echo "{\"image\": \"$(base64 -w0 photo.jpg)\"}" | curl -s localhost:7860/api/caption -H 'Content-Type: application/json' -d @-
    curl -s localhost:7860/api/items/17                        # metadata; .../17/image is the picture as JPEG

Items are named by their ids, never by paths. Every error is ``{"error": "a sentence"}`` with 400 (what was sent cannot be
used), 401 (password), 404 (no such item), 413 (too large), 503 (busy; ``Retry-After`` says when) or 500 (a bug).
"""

import logging
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi import Query as Pixels
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from unifashion.apps.demo.errors import Refusal, explain
from unifashion.apps.demo.service import Query, Service
from unifashion.errors import UserError

log = logging.getLogger(__name__)
RETRY = {"Retry-After": "5"}


class PictureRequest(BaseModel):
    """A picture: one of the index, or one that is sent."""

    model_config = ConfigDict(extra="forbid")
    image_id: str | None = Field(None, description="a product of the index as the picture")
    image: str | None = Field(None, description="a picture as base64 (JPEG, PNG, WebP, GIF, BMP) or as a data: address")


class SearchRequest(PictureRequest):
    """What to look for: ``text``, a picture (``image_id`` or ``image``), or a picture and in ``text`` what should change."""

    text: str = Field("", description="words, or what should change about the picture")
    k: int = Field(10, description="how many products are returned")
    filter: str = Field("", description="a condition on the metadata: price < 50 and category == 'dress'")
    rerank: int = Field(0, description="so many first hits are ordered anew by the matching head; 0 = off")


class ItemAnswer(BaseModel):
    """``image`` is the address of the picture."""

    id: str
    image: str
    metadata: dict[str, Any]


class HitAnswer(ItemAnswer):
    """With the score, which is a similarity of at most 1."""

    score: float


class SearchAnswer(BaseModel):
    """The hits come best first; ``remarks`` say what the model could not read of the words."""

    hits: list[HitAnswer]
    remarks: list[str]


class CaptionAnswer(BaseModel):
    """A sentence."""

    caption: str


class HealthAnswer(BaseModel):
    """``status`` is "ok"; the rest says what is served."""

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
    return {code: {"model": ErrorAnswer} for code in codes}


def _item(item: Any) -> dict[str, Any]:
    return {"id": item.id, "image": f"/api/items/{quote(item.id, safe='')}/image", "metadata": item.metadata}


def _picture(service: Service, request: PictureRequest) -> Image.Image | None:
    if request.image_id is not None and request.image is not None:
        raise Refusal("Give image_id or image, not both.")
    if request.image_id is not None:
        return service.photo(request.image_id)
    return None if request.image is None else service.upload(request.image)


def routes(service: Service) -> APIRouter:
    """Return the routes below /api."""
    router = APIRouter(prefix="/api")

    @router.post("/search", response_model=SearchAnswer, responses=_errors(400, 401, 404, 413, 503))
    def search(request: SearchRequest) -> dict[str, Any]:
        """Search by words, by picture, or by picture and words."""
        image = _picture(service, request)
        hits = service.search(Query(request.text, image, request.k, request.filter, request.rerank))
        return {
            "hits": [{**_item(hit), "score": hit.score} for hit in hits],
            "remarks": service.remarks(request.text),
        }

    @router.post("/caption", response_model=CaptionAnswer, responses=_errors(400, 401, 404, 413, 503))
    def caption(request: PictureRequest) -> dict[str, Any]:
        """What the captioning model says about a picture."""
        image = _picture(service, request)
        if image is None:
            raise Refusal("Nothing to describe: give image_id or image.")
        return {"caption": service.caption(image)}

    @router.get("/items/{item_id:path}/image", response_class=Response, responses=_errors(400, 401, 404))
    def image(
        item_id: str, side: int = Pixels(480, description="pixels of the longer side: 240, 480 or 960")
    ) -> Response:
        """The picture of a product, as JPEG."""
        jpeg = service.thumbnail(item_id, side)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/items/{item_id:path}", response_model=ItemAnswer, responses=_errors(401, 404))
    def item(item_id: str) -> dict[str, Any]:
        """A product and its metadata."""
        return _item(service.item(item_id))

    @router.get("/health", response_model=HealthAnswer)
    def health() -> dict[str, Any]:
        """Whether the service is up, and what it serves."""
        return {"status": "ok", **service.about()}

    known = [route.path_regex for route in router.routes if isinstance(route, APIRoute)]

    @router.api_route(
        "/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
    )
    def nothing(request: Request) -> None:
        """Keep the page, which is mounted behind, from answering for the API."""
        path = request.url.path
        raise HTTPException(405 if any(pattern.match(path) for pattern in known) else 404)

    return router


def _answer(status: int, words: str) -> JSONResponse:
    return JSONResponse({"error": words}, status, RETRY if status == 503 else None)


def install_errors(app: FastAPI) -> None:
    """Make every error of ``app`` a sentence with a status."""

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return _answer(*explain(error))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return _answer(400, f"{place}: {first['msg']}; see /api/docs.")

    @app.exception_handler(HTTPException)
    def not_served(request: Request, error: HTTPException) -> JSONResponse:
        words = str(error.detail)
        if error.status_code in (404, 405):
            words = f"There is no {request.method} {request.url.path[:200]}; see /api/docs."
        return _answer(error.status_code, words)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _answer(500, "Something went wrong on the server; its log says what.")
