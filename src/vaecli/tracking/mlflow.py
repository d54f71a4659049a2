"""MLflow: its local SQLite file, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing goes over the network unasked
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from vaecli.tracking.trackers import PROJECT, TrackedRun, require_writable

_ID = "vaecli.id"


class MLflow:
    """A run of MLflow, found again by a tag."""

    def __init__(self, run: TrackedRun) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            require_writable(Path.cwd())
        self._client = MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        earlier = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'")
        self.last_epoch = 0
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            history = self._client.get_metric_history(self._run, "test_loss")
            self.last_epoch = max((metric.step for metric in history), default=0)
            return
        tags = {_ID: run.id, "vaecli.run": str(run.path)}
        self._run = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        settings = [Param(name, str(value)) for name, value in run.settings.items()]
        self._client.log_batch(self._run, params=settings)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of metrics.csv."""
        now = int(1000 * time.time())
        row = [Metric(name, value, now, epoch) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=row)

    def finish(self, epoch: int, pictures: Sequence[Path], digest: str) -> None:
        """Log the pictures of the finished run, and the SHA-256 of its weights file."""
        for path in pictures:
            self._client.log_artifact(self._run, str(path))
        self._client.set_tag(self._run, "vaecli.sha256", digest)

    def close(self, *, finished: bool) -> None:
        """Write what is buffered and let go of the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
