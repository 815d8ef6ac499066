"""Search an index in the browser, with a JSON API beside it.

    unifashion demo runs/index                                    # http://127.0.0.1:7860; only this machine reaches it
    unifashion demo runs/index --caption-model runs/pretrain --tryon-model runs/tryon
    UNIFASHION_PASSWORD=... unifashion demo runs/index --host 0.0.0.0 --allow-host shop.example.com
    unifashion demo runs/index --proxy 127.0.0.1 --root-path /fashion --allow-host shop.example.com

The API is documented at /api/docs of the running demo.
"""

import os
from dataclasses import dataclass, fields

from unifashion.errors import require
from unifashion.flags import argument, setting

REACHED = ("host", "port", "allow_host", "per_client", "proxy", "root_path", "access_log")


@dataclass(frozen=True)
class Settings:
    """Demo: what it serves, and where it listens."""

    index: str = argument("what unifashion index wrote")
    model: str | None = setting(None, "where the model is now [where it was for the index]")
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(7860, "0 = any free port", most=65_535)
    password: str | None = setting(None, "asked of every visitor [$UNIFASHION_PASSWORD]")
    allow_host: tuple[str, ...] = setting((), "a name by which it is reached, besides its address", repeat=True)
    per_client: int = setting(64, "requests at the same time from one address", least=1, most=10_000)
    proxy: str | None = setting(None, "address of a proxy that says who its clients are (X-Forwarded-For)")
    root_path: str = setting("", "path at which that proxy serves the demo")
    access_log: bool = setting(False, "log every request")
    caption_model: str | None = setting(None, "describes pictures [the index's own model if it can]")
    tryon_model: str | None = setting(None, "draws products on people")
    tryon_retriever: str | None = setting(None, "the retrieval model that the try-on model was trained beside")
    device: str | None = setting(None, "as torch names it [the GPU if there is one]")
    uri: str | None = setting(None, "of the Milvus cluster that holds the index [the file in INDEX]")


def run(settings: Settings) -> None:
    """Load index and models, and serve until Ctrl-C."""
    require("gradio", "unifashion demo")  # like a taken port, reported before the models are loaded
    if settings.tryon_model is not None:
        require("diffusers", "--tryon-model")
    from unifashion.apps.demo import DemoSettings
    from unifashion.apps.demo.server import listen, serve

    password = settings.password if settings.password is not None else os.environ.get("UNIFASHION_PASSWORD")
    given = {field.name: getattr(settings, field.name) for field in fields(Settings) if field.name in REACHED}
    served = DemoSettings(password=password, **given)
    with listen(served.host, served.port) as listener:
        from unifashion.apps.demo.loading import Models, load_service

        models = Models(**{field.name: getattr(settings, field.name) for field in fields(Models)})
        serve(load_service(models, served), listener)
