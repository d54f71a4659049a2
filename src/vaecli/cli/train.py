"""`vaecli train`: options become a plan, the plan becomes a run."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vaecli.cli import completion, options, outputs
from vaecli.cli.options import option
from vaecli.config import ModelConfig
from vaecli.errors import StoppedError, UsageError, is_out_of_memory
from vaecli.system import shell, torchrun
from vaecli.system.signals import stop_flag
from vaecli.tracking import names
from vaecli.training.settings import DATA, Settings

if TYPE_CHECKING:
    import torch

    from vaecli.runs.directory import Run
    from vaecli.runs.metrics import EpochMetrics
    from vaecli.system.processes import Processes
    from vaecli.training.plan import Plan, Request


def train(
    *,
    data: Annotated[
        str | None,
        option(
            f"{options.SETS}, {options.OWN_IMAGES}.",
            "--data",
            "-d",
            default="auto: mnist, else digits",
            metavar="DATA",
            parser=options.home_text,
            autocompletion=completion.data,
            panel=DATA,
        ),
    ] = None,
    settings: Settings,
    output: Annotated[
        Path | None,
        option(
            "New or unfinished run.",
            "--output",
            "-o",
            default="runs/NNN-DATA-ARCH",
            metavar="DIR",
            parser=options.home_path,
            panel=options.OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        option(
            "Continue this run, or the latest unfinished one.",
            metavar="RUN",
            parser=options.home_text,
            autocompletion=completion.runs,
            panel=options.OUTPUT,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        option(
            "Start from the weights, and model settings not given, of this run or .safetensors"
            " file.",
            metavar="MODEL",
            parser=options.home_text,
            autocompletion=completion.runs,
            panel=options.OUTPUT,
        ),
    ] = None,
    preview: options.Preview = None,
    animate: Annotated[
        Path | None,
        option(
            "GIF of fixed latents, decoded after each epoch.",
            metavar="GIF",
            parser=options.home_path,
            panel=options.OUTPUT,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        option(
            "Log also to tensorboard, mlflow, wandb or trackio; may be repeated.",
            metavar="NAME",
            autocompletion=completion.trackers,
            panel=options.OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("Print the plan and write nothing.", "--dry-run", panel=options.OUTPUT)
    ] = False,
    common: options.Common,
) -> None:
    """Train a VAE and write a run directory; prints its path.

    [bold]Examples[/bold]
      vaecli train --epochs 20
      vaecli train --data mnist --latent-dim 2 -o runs/flat
      vaecli train --data photos/ --arch conv
      vaecli train --binarize dynamic --importance-samples 50
      vaecli train --resume latest
    """
    common.terminal.preview = preview is not False
    _check(common, output, resume, animate)
    tracks = names.require(track or ())
    if torchrun.restarts():
        common = replace(common, force=False)  # it was obeyed the first time

    from vaecli.system.device import resolve
    from vaecli.training.plan import Request

    device = resolve(common.device, common.terminal.note)
    request = Request(
        data=data,
        settings=settings,
        output=output,
        resume=resume,
        init_from=init_from,
        force=common.force,
        threads=common.threads,
        device=device.type,
        processes=torchrun.count(),
    )
    if dry_run:
        if torchrun.rank() == 0:
            from vaecli.terminal import summary

            summary.show_plan(common.terminal, _plan(common, request), device)
        return
    from vaecli.system import processes

    group = processes.join(device)
    with group.together():
        _run(common, _agree(common, group, request), group, device, animate, tracks)


def _check(
    common: options.Common, output: Path | None, resume: str | None, animate: Path | None
) -> None:
    """Refuse contradictory options before torch is imported."""
    if resume is not None and output is not None:
        raise UsageError("--resume and --output contradict each other", "Give one of them.")
    if resume is not None and common.force:
        raise UsageError("--resume and --force contradict each other", "Give one of them.")
    if animate is not None:
        outputs.require_new_file("--animate", animate, ".gif", force=common.force)
    if torchrun.by_torchrun() and output is None and resume is None:
        raise UsageError(
            "torchrun needs --output or --resume: a group that is started again must find its run",
            "Name the run directory with -o.",
        )


def _agree(common: options.Common, group: Processes, request: Request) -> Plan:
    """The plan of the first process for all; on each machine one prepares the images first."""
    from vaecli.data.reading import Reading
    from vaecli.training import planning

    plan = None
    with group.agreed(preparing=True):
        if group.first:
            plan = _plan(common, request)
    message = group.share_value(None if plan is None or group.count == 1 else plan.to_json())
    checked = torchrun.local_rank() > 0  # by the one whose turn is first
    reading = Reading(common.data_dir, common.download, checked=checked)
    for turn in (torchrun.local_rank() == 0, True):
        with group.agreed(preparing=True):
            if plan is None and turn:
                common.use_threads()
                plan = planning.followed(message, reading)
    assert plan is not None
    return plan


def _plan(common: options.Common, request: Request) -> Plan:
    from vaecli.runs import directory
    from vaecli.runs.load import LATEST
    from vaecli.training import continuing, planning

    if request.resume == LATEST:
        request = replace(request, resume=str(continuing.latest_unfinished()))
    existing, recorded = request.resume or request.output, None
    if existing is not None and not request.force and directory.is_run(Path(existing)):
        recorded = directory.open_run(Path(existing)).config.threads
    common.use_threads(recorded)
    with common.reading() as reading:
        plan = planning.plan(request, reading)
    chosen, default = plan.config.model.likelihood, ModelConfig.likelihood
    asked = request.settings.likelihood is not None or request.init_from is not None
    if plan.status == "new" and chosen != default and not asked:
        common.terminal.note(
            f"colour images: taking --likelihood {chosen}, a probability of the 256 levels of a"
            " pixel; --likelihood chooses another"
        )
    return plan


def _run(
    common: options.Common,
    plan: Plan,
    group: Processes,
    device: torch.device,
    animate: Path | None,
    tracks: tuple[str, ...],
) -> None:
    from vaecli.cli.observers import Watch
    from vaecli.system.device import require_working
    from vaecli.terminal import summary
    from vaecli.tracking.follow import follow
    from vaecli.training import continuing, loop, planning

    terminal = common.terminal
    if plan.status == "finished":
        assert plan.path is not None
        terminal.note(f"{plan.path} is finished; nothing to do")
        if animate is not None:
            terminal.warning(
                f"{animate} was not made: the run is finished, its epochs cannot be shown again"
            )
        _record(common, plan.path, tracks if group.first else ())
        _result(common, plan.path, _of_weights(plan.path))
        return
    if plan.path is None and (twin := continuing.unfinished_twin(plan.config)):
        command = shell.join(["vaecli", "train", "--resume", str(twin)])
        terminal.note(f"An unfinished run of these settings exists: {command}")
    summary.show_data(terminal, plan)
    with group.agreed():
        require_working(device)
    with ExitStack() as stack:
        target = _open(stack, plan, group)
        command = _resume_command(common, target.path, tracks)
        stopped = f"stopped; the state is saved in {target.path}", f"Continue with: {command}"
        try:
            with stop_flag.deferred():
                events = loop.train(
                    target,
                    plan.dataset,
                    device=device,
                    should_stop=lambda: stop_flag.received is not None,
                    initial=plan.initial,
                    processes=group,
                )
                watch = Watch(common, plan, target.path, device, animate if group.first else None)
                told = follow(events, target, tracks if group.first else ())
                with closing(told):
                    last = watch.show(told, "vaecli: {}. {}".format(*stopped))
        except KeyboardInterrupt:
            raise StoppedError(stop_flag.exit_code, *stopped) from None
        except OSError as error:
            error.add_note(f"Then continue with: {command}")
            raise
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                error.add_note(f"Start again with {planning.smaller(plan.config)}.")
            raise
    _result(common, target.path, last)


def _open(stack: ExitStack, plan: Plan, group: Processes) -> Run:
    """The run of `plan`, which the first process holds until the end of `stack`."""
    from vaecli.runs.directory import Run

    target = None
    with group.agreed():
        if group.first:
            target = stack.enter_context(plan.opened())
    path = group.share_value(None if target is None else str(target.path))
    return target or Run(Path(path), plan.config)


def _record(common: options.Common, path: Path, tracks: tuple[str, ...]) -> None:
    """Tell trackers of a run that is finished already."""
    if not tracks:
        return
    from vaecli.runs.directory import open_run
    from vaecli.tracking.follow import record

    run = open_run(path)
    with run.locked():
        told = record(run, tracks, common.terminal.warning)
    if told:
        common.terminal.note(f"told {', '.join(told)} of its epochs and pictures")


def _of_weights(path: Path) -> EpochMetrics | None:
    """The metrics of the epoch that a finished run's weights are of."""
    from vaecli.runs.directory import open_run

    rows = open_run(path).read_metrics()
    held_out = [row for row in rows if row.held_out_loss is not None]
    if held_out:
        return min(held_out, key=lambda row: row.held_out_loss or 0.0)
    return rows[-1] if rows else None


def _resume_command(common: options.Common, path: Path, tracks: tuple[str, ...]) -> str:
    """What continues the run, ready for a shell."""
    words = ["vaecli", "train", "--resume", str(path)]
    for name in tracks:
        words += ["--track", name]
    if common.data_dir is not None:
        words += ["--data-dir", str(common.data_dir)]
    words += ["--no-download"] * (not common.download)
    if common.device != "auto":
        words += ["--device", common.device]
    return shell.join(words)


def _result(common: options.Common, path: Path, last: EpochMetrics | None) -> None:
    if common.terminal.json:
        common.terminal.object(
            {"run": str(path), "metrics": None if last is None else asdict(last)}
        )
    else:
        common.terminal.data(str(path))
