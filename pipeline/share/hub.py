"""Packages on a hub of huggingface_hub: fetched by name and revision, and pushed with their card."""

from __future__ import annotations

import re
from pathlib import Path

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.package import FILES, is_package, verify
from mesm.pipeline.share.card import read_figures

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def find_package(
    source: str | Path, revision: str | None = None, endpoint: str | None = None, token: str | None = None
) -> tuple[Path, str]:
    """Return the folder of a package, and the commit that it is of where it comes from a hub.

    source: a folder, or `owner/name` of a hub, which is downloaded into huggingface_hub's cache; revision: branch, tag
    or commit there; endpoint: the hub's address, by default $HF_ENDPOINT or the public one. A folder of that name goes
    before the hub. PipelineError when there is no such package, or when the hub cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise PipelineError(f"{folder} is a folder, which has no revision {revision}; leave revision out")
        return folder, ""
    if not _REPOSITORY.fullmatch(str(source)):
        raise PipelineError(f"{source}: expected the folder of a package or run, or owner/name of a hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            str(source),
            revision=revision,
            endpoint=endpoint,
            token=token,
            allow_patterns=list(FILES),
            library_name="mesm-pipeline",
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at {revision}" if revision else ""
        raise PipelineError(f"{source}{at} cannot be fetched from the hub: {_brief(error)}") from error
    folder = Path(found)
    if not is_package(folder):
        raise PipelineError(f"{source} on the hub is no package of this program: it has no model.safetensors")
    return folder, folder.name


def push(
    package: Path,
    repository: str,
    *,
    revision: str | None = None,
    private: bool = False,
    force: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a package as one commit, made if it is not there, and return the commit's address.

    revision: the branch; made when it is not there. PipelineError when the package's files were changed, when its card
    has no measured figures and not `force`, or when the hub refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise PipelineError(f"{repository}: expected owner/name")
    verify(package)
    if not read_figures(package) and not force:
        raise PipelineError(
            f"the card of {package} has no measured figures: run `mesm-pipeline evaluate RUN` and export it again, or "
            "use --force to publish it without"
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(endpoint=endpoint, token=token, library_name="mesm-pipeline")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=package,
            revision=revision,
            allow_patterns=list(FILES),
            commit_message="Upload a network of mesm-pipeline",
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise PipelineError(f"{repository} cannot be pushed to the hub: {_brief(error)}") from error
    return str(commit.commit_url)


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
