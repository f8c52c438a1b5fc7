"""task=serve: serves a checkpoint over HTTP until Ctrl-C or SIGTERM, then completes pending requests."""

import os
import sys

from microgpt.config.schema import Config
from microgpt.config.task_keys import ServeConfig
from microgpt.errors import UserError
from microgpt.inference.loading import load_model
from microgpt.installation import install_command
from microgpt.runs.invocation import Invocation

API_KEY = "MICROGPT_API_KEY"
SWITCH_SECONDS = 0.0001  # interval at which the generating thread yields to the event loop


def serve(config: Config, invocation: Invocation) -> None:
    try:
        import fastapi  # noqa: F401
        import fastapi_offline  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError as error:
        raise UserError(f"task=serve needs {error.name}: {install_command('serve')}") from None
    from microgpt.serve.server import run

    model = load_model(config, invocation)
    sys.setswitchinterval(SWITCH_SECONDS)
    run(model, config.serve, api_key(config.serve))


def api_key(config: ServeConfig) -> str | None:
    return config.api_key or os.environ.get(API_KEY) or None
