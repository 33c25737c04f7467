"""Runs and bundles shared through a hub of models (Hugging Face's, or another that speaks as it does).

Pulling executes nothing that comes from a hub: a bundle is checked against its own hashes and recorded
answers, and a run is opened as any other."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError

from pipelines import inspection
from pipelines.files import require_own_files, writing
from pipelines.report import verdict
from pipelines.rundir import RUNS, Run, open_run
from teacher.errors import FathomError, UsageError

JSON = dict[str, Any]
CARD = """---
library_name: fathom-rl
tags: [reinforcement-learning, robotics, goal-conditioned]
---

# {name}

{verdict}

A run of Fathom, of the task {task}. `pipeline pull {repository}` brings it to `runs/`; there
`pipeline report`, `pipeline watch`, `pipeline distill` and `pipeline export` work on it.
"""
OWN_MACHINE = ("watch", "baselines")  # of a run: films, and runs inside it


class Parcel(NamedTuple):
    """What is pushed: where it lies, its files, and the card of one that has none of its own."""

    path: Path
    files: list[Path]
    card: str = ""

    def told(self, repository: str) -> JSON:
        """Returns `repository`, `files` by name and `bytes`."""
        names = [file.relative_to(self.path).as_posix() for file in self.files]
        size = sum(file.stat().st_size for file in self.files)
        return {"repository": repository, "files": names, "bytes": size}


def parcel(target: str, repository: str) -> Parcel:
    """Returns a bundle's files as its specification lists them, or those of a run.

    Raises: FathomError if the bundle was altered; UsageError if there is neither a bundle nor a run."""
    folder = Path(target)
    if (folder / "spec.json").is_file():
        listed = inspection.inspect(folder)["files"]
        return Parcel(folder, [folder / name for name in ("spec.json", *listed)])
    run = open_run(target)
    card = CARD.format(name=run.path.name, verdict=verdict(run), task=run.task, repository=repository)
    kept = (file for file in sorted(run.path.rglob("*")) if file.is_file() and not file.is_symlink())
    parts = ((file, file.relative_to(run.path).parts) for file in kept)
    files = [
        file
        for file, within in parts
        if within[0] not in OWN_MACHINE and not any(part.startswith((".", "damaged-")) for part in within)
    ]
    return Parcel(run.path, files, card)


def push(target: str, repository: str, message: str | None = None, *, public: bool = False) -> JSON:
    """Uploads a bundle or a run as one commit; a repository that does not exist yet is made, a private one.

    Args: repository: OWNER/NAME.
    Returns: as `Parcel.told`, and the `commit`'s address.
    Raises: as `parcel`; FathomError with what the hub answers."""
    sent = parcel(target, repository)
    operations = [CommitOperationAdd(file.relative_to(sent.path).as_posix(), file) for file in sent.files]
    if sent.card:
        operations.append(CommitOperationAdd("README.md", sent.card.encode()))
    with _asking(repository) as api:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.create_commit(
            repository, operations, commit_message=message or f"{sent.path.name} from Fathom"
        )
    return {**sent.told(repository), "commit": done.commit_url}


def pull(repository: str, revision: str | None = None, out: Path | None = None) -> Path:
    """Downloads a bundle or a run, and checks it before it appears in its place.

    Args:
      revision: a commit, a tag or a branch.
      out: where to; by default runs/NAME for a run and NAME for a bundle.
    Raises: UsageError if something is there already; FathomError with what the hub answers, for a repository
      that holds neither, and for a bundle that is not what its specification says."""
    _require_free(out)
    around = (out or RUNS).parent
    with writing(around), tempfile.TemporaryDirectory(prefix=".pulled-", dir=_made(around)) as held:
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
        _require_free(target)
        _made(target.parent)
        folder.rename(target)
    return target


def _require_free(target: Path | None) -> None:
    if target is not None and target.exists():
        raise UsageError(f"{target} exists and is never overwritten: name another place with --out")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
