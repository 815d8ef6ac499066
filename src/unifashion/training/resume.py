"""``--resume RUN``: a resumed run takes its settings from its ``config.yaml``.

Only what cannot change a step may be different: where files are, how often checkpoints are written, how images are loaded, how
the model is validated.
"""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from unifashion.config import EvaluationSettings, RunSettings
from unifashion.errors import UserError
from unifashion.flags import parse, read_yaml, resolve
from unifashion.io import file_stamp
from unifashion.training.run_folder import CONFIG, damaged, read_description

FREE = frozenset(
    {
        "cache_images",
        "data_root",
        "eval_every",
        "keep_last",
        "max_missing",
        "num_workers",
        "output_dir",
        "overwrite",
        "resume",
        "save_steps",
        "tracker",
        *(field.name for field in fields(EvaluationSettings)),
    }
)


def parse_settings(
    groups: Sequence[type], argv: Sequence[str], description: str, more_free: Collection[str] = ()
) -> tuple[Any, ...]:
    """Parse a command line; with ``--resume RUN`` the run's own settings replace those of ``--config``.

    Args:
        groups: settings; one of them has ``resume`` and ``output_dir``.
        argv: flags.
        description: of the program, for its help.
        more_free: names of settings, beside ``FREE``, that may differ from those the run was started with.

    Raises:
        UserError: RUN is not a run, or a flag differs from what the run was started with.
    """
    given = parse(groups, argv, description)
    (run,) = (group.resume for group in given if isinstance(group, RunSettings))
    if run is None:
        return given
    begun = read_description(Path(run))
    config = Path(run) / CONFIG
    if not config.is_file():
        raise UserError(f"--resume {run}: it has no {CONFIG}, so the settings of the run are lost; start a new run")
    if begun.get(CONFIG, file_stamp(config)) != file_stamp(config):
        raise UserError(
            f"--resume {run}: its {CONFIG} is not what the run was started with; restore it, "
            f"or start a new run with --init-from {run}/last"
        )
    original = resolve(groups, read_yaml(config))
    settings = parse(groups, [*argv, "--config", str(config)], description)
    for old, new in zip(original, settings, strict=True):
        for field in fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if before != after and field.name not in FREE | {*more_free}:
                flag = "--" + field.name.replace("_", "-")
                raise UserError(
                    f"--resume {run}: it was started with {flag} {before}, now it is {after}; "
                    "leave the flag out, or start a new run"
                )
    return tuple(replace(group, output_dir=run) if isinstance(group, RunSettings) else group for group in settings)


def check_data(run: Path, described: dict[str, str]) -> None:
    """Check that the training rows are those the run was started with.

    Raises:
        UserError: they are not.
    """
    before = read_description(run).get("data")
    if not isinstance(before, dict) or not {"fingerprint", "used"} <= before.keys():
        raise damaged(run)
    if before["fingerprint"] != described["fingerprint"]:
        raise UserError(
            f"--resume {run}: the training data has changed since the run was started (then: {before['used']}, now: "
            f"{described['used']}, or other contents); restore it, or start a new run"
        )
