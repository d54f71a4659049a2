"""`vaecli eval --alert-rate`: which images do not belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vaecli.cli.options import option
from vaecli.errors import UsageError

PANEL = "Alerts"


@dataclass(frozen=True, kw_only=True)
class Alerts:
    """The options that call images alerts."""

    alert_rate: Annotated[
        float | None,
        option(
            "Call an image an alert if so few held-out images score as high; at most this share of"
            " ordinary images raises one.",
            metavar="RATE",
            panel=PANEL,
        ),
    ] = None
    score: Annotated[
        Literal["loss", "distortion", "complexity"],
        option(
            "What alerts go by: the loss, the distortion, or the loss less the complexity of the"
            " image.",
            panel=PANEL,
        ),
    ] = "loss"
    fail_on_alert: Annotated[
        bool, option("Exit with 8 if there is an alert.", "--fail-on-alert", panel=PANEL)
    ] = False

    def check(self) -> None:
        """UsageError for options that contradict each other."""
        if self.fail_on_alert and self.alert_rate is None:
            raise UsageError(
                "--fail-on-alert needs --alert-rate",
                "Say how many ordinary images may raise an alert, as in --alert-rate 0.01.",
            )
