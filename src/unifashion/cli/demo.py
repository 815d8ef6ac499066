"""``unifashion demo``: a page in the browser to search an index, and a JSON API beside it.

unifashion demo runs/index                                    # http://127.0.0.1:7860; only this machine reaches it
unifashion demo runs/index --caption-model runs/pretrain --tryon-model runs/tryon
UNIFASHION_PASSWORD=... unifashion demo runs/index --host 0.0.0.0

The API is documented at /api/docs of the running demo.
"""

import argparse
import os
from dataclasses import fields


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("index", metavar="INDEX", help="what unifashion index wrote")
    parser.add_argument("--model", metavar="PATH", help="where the model is now [where it was for the index]")
    parser.add_argument("--host", metavar="NAME", default="127.0.0.1", help="address to listen at [%(default)s]")
    parser.add_argument("--port", metavar="N", type=int, default=7860, help="0 = any that is free [%(default)s]")
    parser.add_argument("--password", metavar="WORD", help="asked of everybody who comes [$UNIFASHION_PASSWORD]")
    parser.add_argument("--caption-model", metavar="PATH", help="describes pictures [the index's own model if it can]")
    parser.add_argument("--tryon-model", metavar="PATH", help="draws products on people")
    parser.add_argument(
        "--tryon-retriever", metavar="PATH", help="the retrieval model that the try-on model was trained beside"
    )
    parser.add_argument("--device", metavar="NAME", help="as torch names it [the GPU where there is one]")
    parser.add_argument("--uri", metavar="URI", help="of the Milvus cluster that holds the index [the file in INDEX]")


def run(flags: argparse.Namespace) -> None:
    """Load index and models, and serve until Ctrl-C."""
    from unifashion.apps.demo import DemoSettings
    from unifashion.apps.demo.server import listen, serve

    password = flags.password if flags.password is not None else os.environ.get("UNIFASHION_PASSWORD")
    settings = DemoSettings(host=flags.host, port=flags.port, password=password)
    with listen(settings.host, settings.port) as listener:  # a port that is taken is told before anything is loaded
        from unifashion.apps.demo.loading import Models, load_service

        models = Models(**{field.name: getattr(flags, field.name) for field in fields(Models)})
        serve(load_service(models, settings), listener)
