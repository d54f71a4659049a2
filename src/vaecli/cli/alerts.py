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
        Literal["loss", "distortion", "complexity", "likelihood"] | None,
        option(
            "What alerts go by: loss, distortion, complexity (the loss less that of the image) or"
            " likelihood (-log p(x) by 16 importance samples).",
            default="loss",
            metavar="NAME",
            panel=PANEL,
        ),
    ] = None
    fail_on_alert: Annotated[
        bool, option("Exit with 8 if there is an alert.", "--fail-on-alert", panel=PANEL)
    ] = False

    def check(self) -> None:
        """UsageError for options that contradict each other."""
        given = {"--fail-on-alert": self.fail_on_alert, f"--score {self.score}": self.score}
        for name in (name for name, value in given.items() if value and self.alert_rate is None):
            raise UsageError(
                f"{name} needs --alert-rate",
                "Say how many ordinary images may raise an alert, as in --alert-rate 0.01.",
            )
