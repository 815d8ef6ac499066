"""Add a retrieval protocol: a function and a row. Then validate a checkpoint; its scores are listed with those of the others.

    python examples/add_a_protocol.py --dataset fashiongen --model-path runs/pretrain
    python examples/add_a_protocol.py --dataset fashiongen --data-root dataset/catalogue --model-path runs/quickstart/pretrain

The arguments are those of ``src/blip_validate.py``. Within the package, this file would lie in evaluation/protocols; nothing
else would have to name it.

The protocol looks for the right photo among those of the text's own sub-category only: a model that tells dresses from shirts,
but not one dress from another, scores no better than chance.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a bare clone

from blip_validate import main as validate
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.protocols.inputs import EmbeddedPairs
from unifashion.evaluation.protocols.registry import PairProtocol, register
from unifashion.evaluation.ranks import score_matrix, target_ranks
from unifashion.evaluation.scores import Measurement

METRICS = ("R@1", "R@5", "R@10")


def within_category(split: EmbeddedPairs) -> list[Measurement]:
    """Return the recall of texts (M) that look for images (N) of their sub-category."""
    products = split.embeddings
    if not products.image_subcategory:
        return []
    category_of = dict(zip(products.image_product, products.image_subcategory, strict=True))
    codes = {name: code for code, name in enumerate(sorted(set(category_of.values())))}
    text_category_M = products.texts.new_tensor([codes[category_of[product]] for product in products.text_product])
    image_category_N = products.texts.new_tensor([codes[name] for name in products.image_subcategory])
    ranks_M = target_ranks(
        score_matrix(products.texts, products.images),
        target=products.text_codes[:, None] == products.image_codes,
        exclude=text_category_M[:, None] != image_category_N,
    )
    name = f"{split.data.dataset}/within-category"
    # Categories have different sizes, so there is no one number for the gallery.
    return [measured(name, f"t2i {metric}", [query_values(metric, ranks_M)], None) for metric in METRICS]


register(
    PairProtocol(
        "{dataset}/within-category",
        "Each text against the images of its own sub-category.",
        datasets=(),  # empty = every data set of images with texts
        evaluate=within_category,
    )
)

if __name__ == "__main__":
    validate()
