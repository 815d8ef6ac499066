"""The demo: a page to search a catalogue by words, by photo and by photo + change, and a JSON API beside it.

    unifashion demo runs/index                                        # http://127.0.0.1:7860, this machine only
    unifashion demo runs/index --host 0.0.0.0 --password "$SECRET" --caption-model runs/pretrain --tryon-model runs/tryon

    /            the page: page.py and tryon_tab.py are its Gradio blocks, actions.py and history.py what happens on it,
                 html.py with templates/, style.css and page.js what browsers get
    /api/docs    the JSON API (api.py), with examples; it needs no network

Both ask one ``Service`` (service.py), in which concurrency.py lets few requests use the models at once and answers "busy" to the
rest. What comes from outside is checked in three files: middleware.py (addresses, body sizes, headers), auth.py (the password)
and uploads.py (pictures). server.py puts it all together, loading.py opens index and models, tryon_person.py turns any photo
into the input of a try-on model; limits are in settings.py, errors in errors.py.
"""

from unifashion.apps.demo.service import Service
from unifashion.apps.demo.settings import DemoSettings

__all__ = ["DemoSettings", "Service"]
