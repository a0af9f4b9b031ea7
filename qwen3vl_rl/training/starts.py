"""What a start of a run records of itself: the commit of the code, and the overrides of its command."""

import re
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[2]
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # in names of environment variables
HIDDEN = "***"
# Of an override: such a variable, a key that names a secret, or a URL with a password.
_SECRET = re.compile(
    rf"""{"|".join(SECRET)}|(?i:secret|passw|credential|(?:api|access|private)[-_]?key|token['"]?\s*[:=])|://[^/\s]*@"""
)
# The folders of an absolute path. A path ends where a list or a mapping goes on. The host of a URL is none.
_FOLDERS = re.compile(
    r"""(?<![^\s=:,'"\[{(])(?:file:(?=///))?(?!//[^/])~?/(?:[^,'"\[\]{}()\n]*/)?(?=[^,'"\[\]{}()\n/])"""
)


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run. All is None if it was not recorded.

    commit: of the code.
    dirty: whether tracked files differed from the commit.
    overrides: of the command, without the values of secrets.
    """

    commit: str | None = None
    dirty: bool | None = None
    overrides: Sequence[str] | None = None

    @classmethod
    def of_this_process(cls) -> "Start":
        return cls(**revision(ROOT), overrides=_overrides())


def revision(checkout: Path) -> dict[str, str | bool]:
    """`commit`, and `dirty`: whether tracked files other than results of benchmarks differ from it.

    Empty if `checkout` is not the root of a git checkout.
    """
    if not (checkout / ".git").exists():  # the package may be installed below another project's checkout
        return {}
    # Git refuses checkouts of another user otherwise, and containers often run as root on a mounted checkout.
    git = ("git", "-c", f"safe.directory={checkout}", "-C", str(checkout))
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    try:
        commit, changed = (
            subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), status)
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "dirty": bool(changed)}


def without_secret(override: str) -> str:
    """`override`, with its value hidden if the override seems to hold a secret."""
    key, equals, _ = override.partition("=")
    return f"{key}={HIDDEN}" if equals and _SECRET.search(override) else override


def without_folders(text: str) -> str:
    """`text` with absolute paths reduced to their last part. It is one value, whose paths may contain spaces."""
    return _FOLDERS.sub("", text)


def hide_secrets(config: DictConfig) -> DictConfig:
    """A copy of a recipe, with the values hidden that `without_secret` hides in the overrides of this command."""
    shown = deepcopy(config)
    for override in _given() or ():
        if not override.startswith("~") and without_secret(override) != override:
            key = override.partition("=")[0].lstrip("+")
            OmegaConf.update(shown, key, HIDDEN, merge=False, force_add=True)
    return shown


def _overrides() -> list[str] | None:
    given = _given()
    return None if given is None else [without_secret(override) for override in given]


def _given() -> list[str] | None:
    """The overrides as the user gave them. None if Hydra did not start this process."""
    if not HydraConfig.initialized():
        return None
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # keeps ${oc.env:NAME}
