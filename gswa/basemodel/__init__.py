"""Where a base model lies on this machine: built in, packaged, a local folder, the Hugging Face cache, or fetched from the hub."""

import difflib
import errno
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from gswa.basemodel import smollm2
from gswa.config import BUILTIN_MODEL
from gswa.errors import ConfigError
from gswa.models import MODELS, licence_note, model_named

log = logging.getLogger("gswa")

BUILTIN_FOLDER = Path(__file__).parents[1] / "data" / BUILTIN_MODEL
WAY_OUT = (
    f"use the built-in model (--model {BUILTIN_MODEL}), a small real one from the package registry (--model {smollm2.NAME}), "
    "or the folder of a downloaded model (--model path/to/folder)"
)

# Weights as safetensors only: a pickle may run code when it is opened. Subfolders and `consolidated` hold the weights a second time.
# The card says under which licence.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "tokenizer.model", "*.jinja", "README.md"]
HUB_FILES_LEFT = ["*/*", "consolidated*"]
HUB_TIMEOUT = 5.0  # seconds


def resolve_model(model_id: str, *, allow_download: bool = True, timeout: float = HUB_TIMEOUT) -> Path:
    """The folder of a base model: the built-in one, a packaged one, a local folder, the Hugging Face cache, then the hub.

    `timeout` is how many seconds the hub has to answer at all.
    Raises ConfigError with the reason and the way out.
    """
    if model_id == BUILTIN_MODEL:
        return BUILTIN_FOLDER
    if model_id == smollm2.NAME and (allow_download or smollm2.folder().is_dir()):
        return smollm2.fetch()
    if not model_id.strip():
        raise ConfigError(f"the name of the base model is empty; {WAY_OUT}")
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        if faults := missing_parts(folder):
            raise ConfigError(f"{folder}: not a usable base model ({faults}); choose another folder or --model {BUILTIN_MODEL}")
        return folder.absolute()
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise ConfigError(f"model '{model_id}': no such folder; {WAY_OUT}")
    cached = _from_cache(model_id)
    if cached and not missing_parts(cached):
        return cached
    hint = _nearest(model_id)
    if not allow_download:
        raise ConfigError(f"model '{model_id}': not on this machine, and downloads are off{hint}; {WAY_OUT}")
    return _from_hub(model_id, hint, timeout)


def context_length(folder: Path) -> int | None:
    """Tokens that a base model was made to read at once; None where its config.json does not say."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def is_of_hub(model_id: str) -> bool:
    """Whether other programs know the base by this name."""
    return model_id not in (BUILTIN_MODEL, smollm2.NAME) and not Path(model_id).expanduser().is_dir()


def missing_parts(folder: Path) -> str:
    """What keeps a folder from being a base model, in words; empty when nothing does."""
    names = {file.name for file in folder.iterdir()}
    if "adapter_config.json" in names and "config.json" not in names:
        return "it holds an adapter, not a base model"
    faults = [] if "config.json" in names else ["no config.json"]
    if not any(name.endswith(".safetensors") for name in names):
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
        faults.append("no *.safetensors" + (": pickled weights are not opened, save them as safetensors" if pickled else ""))
    faults += [f"no {shard}" for shard in sorted(_shards(folder) - names)]
    if not (names & {"tokenizer.json", "tokenizer.model"} or names >= {"vocab.json", "merges.txt"}):
        faults.append("no tokenizer.json")
    return ", ".join(faults)


def _shards(folder: Path) -> set[str]:
    """Files that the index of sharded weights names: after a broken download some are absent."""
    index = folder / "model.safetensors.index.json"
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{index}: damaged ({error}); download the model again or --model {BUILTIN_MODEL}") from error


def _nearest(model_id: str) -> str:
    """`; did you mean …?` where a known name is close, else nothing. Compared without case and without the owner too."""
    known = [model.model_id for model in MODELS]
    names = {key.lower(): name for name in known for key in (name.rpartition("/")[2], name)}
    close = difflib.get_close_matches(model_id.lower(), names, n=1, cutoff=0.8)
    return f"; did you mean '{names[close[0]]}'?" if close and names[close[0]] != model_id else ""


def _from_cache(model_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model_id, local_files_only=True, allow_patterns=HUB_FILES, ignore_patterns=HUB_FILES_LEFT))
    except (OSError, HFValidationError):  # not in the cache, in part only, or no name the hub could know
        return None


def _from_hub(model_id: str, hint: str, timeout: float) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        found = HfApi().model_info(model_id, timeout=timeout)  # asked first: its timeout bounds the wait where the network is cut off
        if warning := licence_warning(model_id, found.tags or ()):
            log.warning("%s", warning)
        log.info("downloading %s from the Hugging Face hub", model_id)
        folder = Path(snapshot_download(model_id, allow_patterns=HUB_FILES, ignore_patterns=HUB_FILES_LEFT))
    except Exception as error:  # the client's HTTP library, and with it the errors of a dead network, differ by version
        raise ConfigError(f"model '{model_id}': {_hub_fault(model_id, error)}{hint}; {WAY_OUT}") from error
    if faults := missing_parts(folder):
        raise ConfigError(f"model '{model_id}': the hub's files are not a usable base model ({faults}); {WAY_OUT}")
    return folder


def licence_warning(model_id: str, tags: Iterable[str]) -> str:
    """What to read before the weights are fetched, by our own table or else by the hub's `license:` tag; "" for nothing."""
    row = model_named(model_id)
    licence = row.licence if row else next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    note = licence_note(model_id, licence)
    return f"{note}; read https://huggingface.co/{model_id}" if note else ""


def _hub_fault(model_id: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):  # before its parent, RepositoryNotFoundError
        return f"gated; accept its terms at https://huggingface.co/{model_id} and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "no such folder, and no such model on the Hugging Face hub (or a private one: log in with `hf auth login`)"
    if isinstance(error, HFValidationError):
        return "no such folder, and no name that the Hugging Face hub could know"
    if isinstance(error, HfHubHTTPError):
        return f"the Hugging Face hub refused it (HTTP status {error.response.status_code})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"cannot be stored in the Hugging Face cache ({error.strerror}); free space or set HF_HOME"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"not on this machine, and the Hugging Face hub cannot be reached ({reason})"
