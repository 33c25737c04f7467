"""Runs and bundles shared through a hub of models (Hugging Face's, or another that speaks as it does).

Pulling executes nothing that comes from a hub: a bundle is checked against its own hashes and recorded
answers, and a run is opened as any other."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError

from pipelines import inspection
from pipelines.files import JSON, require_own_files, writing
from pipelines.report import verdict
from pipelines.rundir import RUNS, Run, open_run
from teacher.errors import FathomError, UsageError

CARD = """---
library_name: fathom-rl
tags: [reinforcement-learning, robotics, goal-conditioned]
---

# {name}

{verdict}

A run of Fathom, of the task {task}. `pipeline pull {repository}` brings it to `runs/`; there
`pipeline report`, `pipeline watch`, `pipeline distill` and `pipeline export` work on it.
"""


def push(
    target: str, repository: str, message: str | None = None, *, public: bool = False, dry_run: bool = False
) -> JSON:
    """Uploads a bundle or a run as one commit; a repository that does not exist yet is made, a private one.

    Of a bundle it sends the files that its specification lists, of a run all but what `parts` leaves out and
    a card. A dry run sends nothing.

    Args: repository: OWNER/NAME.
    Returns: `repository`, `files` by name, `bytes`; the `commit`'s address if it was sent.
    Raises: FathomError if the bundle was altered, and with what the hub answers; UsageError if there is
      neither a bundle nor a run."""
    folder, card = Path(target), None
    if (folder / "spec.json").is_file():
        names = ["spec.json", *inspection.inspect(folder)["files"]]
    else:
        run = open_run(target)
        folder, names = run.path, parts(run.path)
        card = CARD.format(name=folder.name, verdict=verdict(run), task=run.task, repository=repository)
    size = sum((folder / name).stat().st_size for name in names)
    told = {"repository": repository, "files": names, "bytes": size}
    if dry_run:
        return told
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    if card:
        operations.append(CommitOperationAdd("README.md", card.encode()))
    with _asking(repository) as api:
        api.create_repo(repository, private=not public, exist_ok=True)
        message = message or f"{folder.name} from Fathom"
        return told | {"commit": api.create_commit(repository, operations, commit_message=message).commit_url}


def parts(run: Path) -> list[str]:
    """Returns names of a run's files, without links, hidden and damaged ones, films, and runs inside it."""
    names = []
    for file in sorted(run.rglob("*")):
        within = file.relative_to(run).parts
        own = within[0] in ("watch", "baselines")
        left_out = own or any(part.startswith((".", "damaged-")) for part in within)
        if file.is_file() and not file.is_symlink() and not left_out:
            names.append("/".join(within))
    return names


def pull(repository: str, revision: str | None = None, out: Path | None = None) -> Path:
    """Downloads a bundle or a run, and checks it before it appears in its place.

    Args:
      revision: a commit, a tag or a branch.
      out: where to; by default runs/NAME for a run and NAME for a bundle.
    Raises: UsageError if something is there already; FathomError with what the hub answers, for a repository
      that holds neither, and for a bundle that is not what its specification says."""
    around = (out or RUNS).parent
    _prepare(out)
    with writing(around), tempfile.TemporaryDirectory(prefix=".pulled-", dir=around) as held:
        folder = Path(held, "content")
        with _asking(repository) as api:
            api.snapshot_download(
                repository, revision=revision, local_dir=folder, ignore_patterns=".gitattributes"
            )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        require_own_files(folder)
        is_bundle = (folder / "spec.json").is_file()
        if is_bundle:
            inspection.inspect(folder)
        elif (folder / "config.json").is_file():
            (folder / "README.md").unlink(missing_ok=True)
            _ = Run(folder).config, Run(folder).figures
        else:
            raise FathomError(f"{repository} holds no bundle (spec.json) and no run (config.json)")
        name = repository.rpartition("/")[2]
        target = out or (Path(name) if is_bundle else RUNS / name)
        _prepare(target)
        folder.rename(target)
    return target


def _prepare(target: Path | None) -> None:
    """Makes the folder around a place; UsageError if something is there already."""
    if target is not None:
        if target.exists():
            raise UsageError(f"{target} exists and is never overwritten: name another place with --out")
        target.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _asking(repository: str) -> Iterator[HfApi]:
    """Gives the hub; turns what it answers, or that it does not, into one sentence."""
    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    except HFValidationError as error:
        raise UsageError(f"{repository!r} is no repository's name, OWNER/NAME: {error}") from error
    except (HTTPError, OSError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise FathomError(
            f"{repository}: {why}; a token is kept by `hf auth login`, or in HF_TOKEN"
        ) from error
