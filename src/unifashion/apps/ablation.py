"""The paper's ablation as a command: what a language model, captions and a diffusion model add to retrieval.

    bash src/ablation.sh [--size paper] [--seeds 3]

    row                phase 1 minimises      phase 2 minimises             composed queries read
    base               itc itm                itc itm                       the feedback alone
    + language model   itc itm itg            as base                       likewise
    + captions         as the row above       itc ttc itm itg               the captions of the targets too
    + diffusion        itc itm itg q2i        itc ttc itm itg q2i           likewise

Phase 1 gives retrieval, captions and drawings, phase 2 composed retrieval. All rows start from one seed, and a training that two
rows share runs once. Every training is one call of pretrain.sh or cir_ft.sh, every score one of vail.sh; ``ablation.md`` and
``ablation.json`` in the output folder hold the table. FID, the paper's measure of drawing, needs Inception's weights: here it is
how often the drawn garment finds its own photo (cycle/design), beside chance.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import yaml

from unifashion.errors import UserError, exit_with_one_sentence
from unifashion.evaluation.scores import read_scores
from unifashion.flags import parse, read_yaml, setting
from unifashion.io import atomic_write, check_output, read_json, write_json

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {"toy": "configs/quickstart/unified_{}.yaml", "paper": "configs/unified/{}.yaml"}
# At toy size shorter than the configs: seven trainings on two cores.
SHORT = {"pretrain": 5, "cir_ft": 4}
HEADS = {"itg": ("llm",), "q2i": ("diffusion_model", "drawing_size")}
TOY_PARTS = {"itg": "llm", "q2i": "diffusion"}
COLUMNS = ("retrieval mean", "composed mean", "BLEU-4", "drawing R@1")


class Row(NamedTuple):
    """One row of the table: what its phases minimise; rows that minimise the same share the training."""

    title: str
    pretrain: str
    cir_ft: str


ROWS = (
    Row("base", "itc+itm", "itc+itm"),
    Row("+ language model", "itc+itm+itg", "itc+itm"),
    Row("+ captions", "itc+itm+itg", "itc+ttc+itm+itg"),
    Row("+ diffusion", "itc+itm+itg+q2i", "itc+ttc+itm+itg+q2i"),
)


@dataclass(frozen=True)
class Settings:
    """Ablation: at which size, from how many seeds, and where it goes."""

    size: Literal["toy", "paper"] = setting("toy", "toy = the embedded catalogue, paper = configs/unified")
    seeds: int = setting(1, "trainings of every row", least=1, most=100)
    output_dir: str = setting("runs/ablation", "folder of the runs and of the table")
    data_root: str | None = setting(None, "folder that holds the data sets [toy: dataset/catalogue]")
    diffusion_model: str | None = setting(None, "Stable Diffusion 1.x of the last row [that of the config; toy: tiny]")
    llm: str | None = setting(None, "language model [that of the config; toy: tiny]")
    epochs: int = setting(0, "of every training [0 = those of the config; toy: 5 and 4]", most=10**6)


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Train and score what is not there yet, and write the table."""
    words = sys.argv[1:] if argv is None else argv
    (settings,) = parse((Settings,), words, str(__doc__).split("\n")[0])
    out = Path(settings.output_dir).resolve()
    check_output(out, "--output-dir")
    if settings.size == "toy" and settings.data_root is None:
        _call([sys.executable, "-m", "unifashion.apps.toy_catalogue", "dataset/catalogue"])
    found = [[_measure(settings, row, out, seed) for seed in range(settings.seeds)] for row in ROWS]
    table = _table(settings, found)
    write_json(out / "ablation.json", {row.title: values for row, values in zip(ROWS, found, strict=True)})
    atomic_write(out / "ablation.md", table)
    sys.stdout.write(f"{table}\n")
    sys.stdout.write(f"the table is in {out / 'ablation.md'}, the runs beside it\n")


def _measure(settings: Settings, row: Row, out: Path, seed: int) -> dict[str, float]:
    """Train and score one row from one seed; return its columns, those that it has."""
    first = _train(settings, "pretrain", row.pretrain, out, seed)
    second = _train(settings, "cir_ft", row.cir_ft, out, seed, first)
    from unifashion.evaluation.all_tasks import summary

    # Of phase 2 only what the table shows.
    scored = _score(settings, first, "all"), _score(settings, second, "fashioniq")
    cross, composed = (summary(read_scores(folder)) for folder in scored)
    columns = {**cross, "composed mean": composed["composed mean"]}
    return {name: float(columns[name]) for name in COLUMNS if columns[name] != "-"}


def _train(settings: Settings, phase: str, losses: str, out: Path, seed: int, start: Path | None = None) -> Path:
    """Run one training to its end, unless that has been done; return its folder."""
    run = out / f"seed{seed}" / "-".join(filter(None, (start.name if start else "", phase, losses)))
    state = (read_json(run / "run.json") or {}).get("state")
    if state == "complete":
        return run
    script = ["bash", str(ROOT / f"{phase}.sh")]
    if state is not None and (run / "checkpoints").is_dir() and (run / "config.yaml").is_file():
        _call([*script, "--resume", str(run)])
        return run
    config = run.with_name(f"{run.name}.yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    values = {**_config(settings, phase, losses, start), "output_dir": str(run), "seed": seed}
    atomic_write(config, yaml.safe_dump(values, sort_keys=False))
    _call([*script, "--config", str(config.resolve()), "--overwrite"])
    return run


def _config(settings: Settings, phase: str, losses: str, start: Path | None) -> dict[str, Any]:
    """Return the settings of a training: those of the unified config, without what none of its losses reads."""
    values = read_yaml(ROOT / CONFIGS[settings.size].format(phase))
    chosen = [name for name in HEADS if name in losses.split("+")]
    for name, keys in HEADS.items():
        if name not in chosen:
            for key in keys:
                values.pop(key, None)
    if not chosen:
        values = {key: value for key, value in values.items() if key not in ("trainable", "gradient_checkpointing")}
    elif settings.size == "toy":
        values["trainable"] = "+".join(["qformer", "adapters", *(TOY_PARTS[name] for name in chosen)])
    named = {"llm": settings.llm, "diffusion_model": settings.diffusion_model}
    values |= {key: value for key, value in named.items() if value is not None and key in values}
    values |= {"losses": losses, "eval_every": 0}
    if start is not None:
        values["init_from"] = str(start)
        if "ttc" not in losses:
            values["composed_objective"] = "paper"  # without captions, matching reads the feedback
    if settings.data_root is not None:
        values["data_root"] = settings.data_root
    epochs = settings.epochs or (SHORT[phase] if settings.size == "toy" else 0)
    return {**values, **({"num_epochs": epochs} if epochs else {})}


def _score(settings: Settings, run: Path, dataset: str) -> Path:
    """Score a run, unless that has been done; return the folder of its scores."""
    folder = run / "validate" / dataset
    if not (folder / "scores.json").is_file():
        root = settings.data_root or ("dataset/catalogue" if settings.size == "toy" else None)
        flags = ["--data-root", root] if root is not None else []
        flags += ["--drawing-guidance", "1.5"] if settings.size == "toy" and dataset == "all" else []
        _call(["bash", str(ROOT / "vail.sh"), "--dataset", dataset, "--model-path", str(run), *flags])
    return folder


def _call(command: Sequence[str]) -> None:
    """Run a command in the project's folder; its own output goes to the terminal.

    Raises:
        UserError: it failed.
    """
    sys.stdout.write(" ".join(["==", *(word.removeprefix(f"{ROOT}/") for word in command)]) + "\n")
    sys.stdout.flush()
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        raise UserError(
            f"{Path(command[1]).name} ended with {code}; see its message above, and call the ablation again to go on"
        )


def _table(settings: Settings, found: Sequence[Sequence[dict[str, float]]]) -> str:
    """Return the table in Markdown."""
    lines = ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, seeds in zip(ROWS, found, strict=True):
        cells = []
        for name in COLUMNS:
            values = [columns[name] for columns in seeds if name in columns]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.2f}{spread}" if values else "-")
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    seeds_of = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds, mean ± deviation"
    lines += [
        "",
        f"{settings.size} size, {seeds_of}; retrieval: fashiongen/sub100, composed: fashioniq/original, captions/standard,",
    ]
    lines += ["drawing: cycle/design, R@1 among all products of the validation split"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
