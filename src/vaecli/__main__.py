"""The process: signals first, then the command line; torchrun starts here too."""

import os
import sys

from vaecli.system.signals import stop_flag


def main() -> None:
    """Run the command line and leave with its exit code."""
    stop_flag.patient = "TORCHELASTIC_RUN_ID" in os.environ
    stop_flag.install()
    try:
        from vaecli.cli import app
    except KeyboardInterrupt:
        sys.exit(stop_flag.exit_code)
    app.main()


if __name__ == "__main__":
    main()
