"""Process entry point: installs signal handlers, then runs the command line; also for torchrun."""

import os
import sys

from vaecli.system import openmp
from vaecli.system.signals import stop_flag


def main() -> None:
    """Run the command line and leave with its exit code."""
    openmp.wait_briefly()
    stop_flag.patient = "TORCHELASTIC_RUN_ID" in os.environ
    try:
        stop_flag.install()
        from vaecli.cli import app

        app.main()
    except KeyboardInterrupt:  # before or after the command handles signals itself
        sys.exit(stop_flag.exit_code)
    finally:
        # A signal within eval() of a text, as Typer reads options, makes `python -m` end by SIGINT
        # whatever the exit code, until the next eval()
        eval("None")


if __name__ == "__main__":
    main()
