"""The accounts that the real run will write to: logins, tokens and what they may, as far as they can be known here."""

import netrc
import os
from urllib.parse import urlparse

from finetrainers.config import Config
from finetrainers.errors import ConfigError
from finetrainers.training.check.findings import Findings
from finetrainers.training.hub import check_hub, check_repo

WANDB_HOST = "https://api.wandb.ai"
NO_LOGIN = ("offline", "disabled", "dryrun")
"""Values of WANDB_MODE with which nobody logs in."""
REFUSED = ("LocalTokenNotFoundError", "HfHubHTTPError", "RepositoryNotFoundError")
"""Errors of the Hub's client that are no fault of the network."""


def check_accounts(config: Config, findings: Findings) -> None:
    """Look at the logins of trackers, and at the Hub's token where the run pushes."""
    if config.track.wandb is None and not config.push_to_hub:
        return
    with findings.part("accounts"):
        if config.track.wandb is not None:
            check_wandb(config.track.wandb)
        if config.push_to_hub:
            _check_push(config, findings)


def check_wandb(project: str) -> None:
    """Refuse Weights & Biases without a login: the run would ask for one, or end.

    Raises:
        ConfigError: With the command that logs in.
    """
    if os.environ.get("WANDB_MODE", "").lower() in NO_LOGIN or os.environ.get("WANDB_API_KEY"):
        return
    host = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).hostname or ""
    if not _is_in_netrc(host):
        raise ConfigError(
            f"track.wandb: {project}: nobody is logged in to Weights & Biases here; run `wandb login`, set WANDB_API_KEY on "
            "the machine, set WANDB_MODE=offline, or remove the key"
        )


def _is_in_netrc(host: str) -> bool:
    file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")  # noqa: PTH111  # as wandb finds it
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _check_push(config: Config, findings: Findings) -> None:
    """Ask the Hub for what the token may; without a network, look at what is here.

    Raises:
        ConfigError: If there is no token, or none that may push there.
    """
    from huggingface_hub import get_token

    if config.hub_repo is not None:
        check_repo(config.hub_repo, key="hub_repo")
    if get_token() is None:
        raise ConfigError(
            "push_to_hub: there is no token of the Hub here; log in with `hf auth login` (on the machine, too), or set "
            "push_to_hub=false"
        )
    try:
        check_hub(config)
    except ConfigError as error:
        kinds = {kind.__name__ for kind in type(error.__cause__).__mro__}
        if error.__cause__ is None or kinds.intersection(REFUSED):
            raise
        findings.leave_out(f"push_to_hub: the Hub cannot be reached from here; what the token may is not checked ({error})")
