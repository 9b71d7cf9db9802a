"""``finetrainers ui``: watch, start and stop runs in a browser."""

import argparse
import re
import socket
import sys
from pathlib import Path

from finetrainers.cli.status import DONE
from finetrainers.compat.packages import install_extra
from finetrainers.errors import ConfigError

PORT = 7865
DEVICE = re.compile(r"cpu|cuda:(\d+|(GPU|MIG)-[\w/-]+)")
"""As nvidia-smi and CUDA_VISIBLE_DEVICES name them."""


def add_ui(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command with its options."""
    ui = commands.add_parser("ui", help="watch, start and stop runs in a browser (extra: ui)")
    ui.add_argument("runs", metavar="RUNS", nargs="*", type=Path, help="folders of runs; new ones go into the first (runs)")
    ui.add_argument(
        "--data", metavar="DIR", action="append", type=Path, default=[], help="another folder that runs may read"
    )
    ui.add_argument("--host", default="127.0.0.1", help="address to listen on; any but a loopback address requires a token")
    ui.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default {PORT}); 0 chooses a free one")
    ui.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="additional name of this server")
    ui.add_argument("--token", action="store_true", help="require a token on a loopback address, too")
    ui.add_argument("--device", action="append", help="device for runs, such as cuda:1 or cpu; by default all of them")
    ui.add_argument("--watch-only", action="store_true", help="do not start queued runs")
    ui.set_defaults(run=run_ui)


def run_ui(options: argparse.Namespace, _: list[str]) -> int:
    """``ui``."""
    try:
        import uvicorn

        from finetrainers.ui.app import make_app
    except ImportError as error:
        raise ConfigError(f"ui: the package {error.name} is missing: {install_extra('ui')}") from None
    from finetrainers.ui.folders import Folders
    from finetrainers.ui.guard import Access, is_loopback, new_token

    for device in options.device or ():
        if not DEVICE.fullmatch(device):
            raise ConfigError(f"ui: --device {device} names none; give cpu, cuda:1, or cuda:GPU-... with its UUID")
    runs = [path.expanduser() for path in options.runs or [Path("runs")]]
    runs[0].mkdir(parents=True, exist_ok=True)
    for path in (*runs, *options.data):
        if not path.expanduser().is_dir():
            raise ConfigError(f"ui: {path} is not a folder; name one that is there")
    folders = Folders(_resolved(runs), _resolved(options.data))
    token = new_token() if options.token or not is_loopback(options.host) else None
    access = Access(options.host, tuple([*options.allow_host, socket.gethostname()]), token)
    app = make_app(folders, access, devices=options.device, starts_runs=not options.watch_only)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False, proxy_headers=False)
    )
    with _listen(options.host, options.port) as listening:
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/"
        print(address if token is None else f"{address}?token={token}", flush=True)
        print("runs continue when this server is stopped (Ctrl-C)", file=sys.stderr, flush=True)
        server.run(sockets=[listening])
    return DONE


def _resolved(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path.expanduser().resolve() for path in paths))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"ui: --host {host} --port {port} cannot be listened at: {error.strerror}; name others") from None
