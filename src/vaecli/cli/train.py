"""`vaecli train`: options become a plan, the plan becomes a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vaecli.cli import completion, options, outputs
from vaecli.cli.observers import Watch
from vaecli.cli.options import option
from vaecli.config import (
    COLOUR_LIKELIHOOD,
    HIDDEN,
    RECIPES,
    Activation,
    Arch,
    Binarize,
    Likelihood,
    ModelConfig,
    OutputBias,
    Precision,
    Schedule,
    TrainConfig,
)
from vaecli.errors import StoppedError, UsageError, is_out_of_memory
from vaecli.system import shell, torchrun
from vaecli.system.signals import stop_flag
from vaecli.terminal import summary

if TYPE_CHECKING:
    import torch

    from vaecli.runs.directory import Run
    from vaecli.runs.metrics import EpochMetrics
    from vaecli.system.processes import Processes
    from vaecli.training.planning import Plan

MODEL, OBJECTIVE = "Model", "Objective"


def _tuned(field: str) -> str:
    """The default of a field of TrainConfig, and that of an architecture that has another."""
    others = [
        f", or {recipe[field]:g} for {arch}" for arch, recipe in RECIPES.items() if field in recipe
    ]
    return f"{getattr(TrainConfig, field):g}{''.join(others)}"


def train(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        option(
            f"digits, mnist, fashion-mnist, kmnist, cifar10, or {options.OWN_IMAGES}.",
            "--data",
            "-d",
            default="auto: mnist, else digits",
            metavar="DATA",
            parser=options.home_text,
            autocompletion=completion.data,
            panel=options.DATA,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        option(
            "Use only the first N training images.", default="all", metavar="N", panel=options.DATA
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        option(
            "The size images are brought to.",
            default="common size, or 64",
            metavar="N|HxW",
            panel=options.DATA,
        ),
    ] = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        option(
            "crop, pad or stretch images of another shape.",
            default="crop",
            metavar="NAME",
            panel=options.DATA,
        ),
    ] = None,
    max_value: Annotated[
        str | None,
        option(
            "The value of white: auto (from the whole set), N, or full (the type's end).",
            default="auto",
            metavar="N",
            panel=options.DATA,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        option("1 for grey or 3 for colour.", default="as found", metavar="N", panel=options.DATA),
    ] = None,
    test_fraction: Annotated[
        float | None,
        option(
            "Held-out share where the data has no test split.",
            default="0.1",
            metavar="SHARE",
            panel=options.DATA,
        ),
    ] = None,
    skip_bad: options.SkipBad = None,
    arch: Annotated[
        Arch | None,
        option(
            "mlp, or conv: residual, slower, better in colour.",
            default=ModelConfig.arch,
            metavar="NAME",
            panel=MODEL,
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        option(
            "Hidden widths; of conv, the first one.",
            default=f"{HIDDEN['mlp'][0]}, conv {HIDDEN['conv'][0]}",
            metavar="WIDTHS",
            panel=MODEL,
        ),
    ] = None,
    activation: Annotated[
        Activation | None,
        option(
            "relu, gelu, silu or tanh.",
            default=ModelConfig.activation,
            metavar="NAME",
            panel=MODEL,
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        option("Latent dimension.", default=ModelConfig.latent_dim, metavar="N", panel=MODEL),
    ] = None,
    likelihood: Annotated[
        Likelihood | None,
        option(
            "Of a pixel: bernoulli, logistic (256 levels, in bits), gaussian or"
            " continuous-bernoulli.",
            default=f"{ModelConfig.likelihood}, or {COLOUR_LIKELIHOOD} for colour",
            metavar="NAME",
            panel=MODEL,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        option("Weight of the KL.", default=TrainConfig.beta, metavar="WEIGHT", panel=OBJECTIVE),
    ] = None,
    warmup_epochs: Annotated[
        int | None,
        option(
            "Epochs over which it rises from 0.",
            default=TrainConfig.warmup_epochs,
            metavar="N",
            panel=OBJECTIVE,
        ),
    ] = None,
    free_bits: Annotated[
        float | None,
        option(
            "KL per latent dimension that is not penalised.",
            default=TrainConfig.free_bits,
            metavar="NATS",
            panel=OBJECTIVE,
        ),
    ] = None,
    importance_samples: Annotated[
        int | None,
        option(
            "K > 1 trains the importance-weighted bound.",
            default=TrainConfig.importance_samples,
            metavar="K",
            panel=OBJECTIVE,
        ),
    ] = None,
    binarize: Annotated[
        Binarize | None,
        option(
            options.BINARIZE_HELP, default=TrainConfig.binarize, metavar="NAME", panel=OBJECTIVE
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option(
            "Passes over the training images.",
            "--epochs",
            "-e",
            default=TrainConfig.epochs,
            metavar="N",
            panel=options.TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "Images per step.",
            "--batch-size",
            "-b",
            default=_tuned("batch_size"),
            metavar="N",
            panel=options.TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        option("Peak learning rate.", default=_tuned("lr"), metavar="RATE", panel=options.TRAINING),
    ] = None,
    schedule: Annotated[
        Schedule | None,
        option(
            "linear or cosine decay; constant has no warm-up.",
            default=TrainConfig.schedule,
            metavar="NAME",
            panel=options.TRAINING,
        ),
    ] = None,
    output_bias: Annotated[
        OutputBias | None,
        option(
            "Start it at the mean image, or at zero.",
            default=TrainConfig.output_bias,
            metavar="NAME",
            panel=options.TRAINING,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        option(
            "fp32, bf16 or, on CUDA, tf32 while training.",
            default=TrainConfig.precision,
            metavar="NAME",
            panel=options.TRAINING,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        option(
            "Stop after N epochs without a better loss on a tenth of the images, held out;"
            " keep the best weights.",
            default=TrainConfig.patience,
            metavar="N",
            panel=options.TRAINING,
        ),
    ] = None,
    seed: options.Seed = None,
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
            "The same latents decoded after each epoch.",
            metavar="GIF",
            parser=options.home_path,
            panel=options.OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("Print the plan and write nothing.", "--dry-run", panel=options.OUTPUT)
    ] = False,
    force: options.Force = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    no_progress: options.NoProgress = False,
    device: options.Device = None,
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    no_download: options.NoDownload = False,
) -> None:
    """Train a VAE and write a run directory; prints its path.

    [bold]Examples[/bold]
      vaecli train --epochs 20
      vaecli train --data mnist --latent-dim 2 -o runs/flat
      vaecli train --data photos/ --arch conv
      vaecli train --binarize dynamic --importance-samples 50
      vaecli train --resume latest
    """
    common = options.Common.of(ctx)
    given = {
        "data": data,
        "limit": limit,
        "image_size": _size(image_size),
        "channels": channels,
        "fit": fit,
        "max_value": _max_value(max_value),
        "test_fraction": test_fraction,
        "skip_bad": skip_bad,
        "arch": arch,
        "hidden": _widths(hidden),
        "activation": activation,
        "latent_dim": latent_dim,
        "likelihood": likelihood,
        "beta": beta,
        "warmup_epochs": warmup_epochs,
        "free_bits": free_bits,
        "importance_samples": importance_samples,
        "binarize": binarize,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "schedule": schedule,
        "output_bias": output_bias,
        "precision": precision,
        "patience": patience,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if resume is not None and output is not None:
        raise UsageError("--resume and --output contradict each other", "Give one of them.")
    if resume is not None and force:
        raise UsageError("--resume and --force contradict each other", "Give one of them.")
    if animate is not None:
        outputs.require_new_file("--animate", animate, ".gif", force=common.force)
    numbered = output is None and resume is None
    if torchrun.by_torchrun():
        if numbered:
            raise UsageError(
                "torchrun needs --output or --resume: a group that is started again must find"
                " its run",
                "Name the run directory with -o.",
            )
        if torchrun.restarts():
            common = replace(common, force=False)  # it was obeyed the first time

    from vaecli.system.device import resolve

    where = resolve(common.device, common.terminal.note)

    def make_plan() -> Plan:
        plan = _plan(common, given, output, resume, init_from, where.type)
        taken = plan.config.model.likelihood
        chosen_for_them = plan.status == "new" and init_from is None and likelihood is None
        if chosen_for_them and taken != ModelConfig.likelihood:
            common.terminal.note(
                f"colour images: taking --likelihood {taken}, a probability of the 256 levels of a"
                " pixel; --likelihood chooses another"
            )
        return plan

    if dry_run:
        if torchrun.rank() == 0:
            summary.show_plan(common.terminal, make_plan())
        return
    from vaecli.system import processes

    group = processes.join(where)
    with group.together():
        plan = _agree(common, group, make_plan)
        _run(common, plan, group, where, numbered=numbered, animate=animate)


def _agree(common: options.Common, group: Processes, make_plan: Callable[[], Plan]) -> Plan:
    """The plan of the first process for all; on each machine one prepares the images first."""
    from vaecli.training import planning
    from vaecli.training.provenance import DatasetLoader

    plan = None
    with group.agreed(preparing=True):
        if group.first:
            plan = make_plan()
    told = group.share_value(None if plan is None or group.count == 1 else plan.to_json())
    checked = torchrun.local_rank() > 0  # by the one whose turn is first
    source = DatasetLoader(common.data_dir, common.download, checked=checked)
    for turn in (torchrun.local_rank() == 0, True):
        with group.agreed(preparing=True):
            if plan is None and turn:
                common.use_threads()
                plan = planning.followed(told, source)
    assert plan is not None
    return plan


def _plan(
    common: options.Common,
    given: dict[str, Any],
    output: Path | None,
    resume: str | None,
    init_from: str | None,
    device: str,
) -> Plan:
    from vaecli.runs import directory
    from vaecli.runs.load import LATEST
    from vaecli.training import planning
    from vaecli.training.provenance import DatasetLoader

    resumed = None
    if resume is not None:
        resumed = planning.latest_unfinished() if resume == LATEST else Path(resume)
    existing = resumed or output
    recorded = None
    if existing is not None and not common.force and directory.is_run(existing):
        recorded = directory.open_run(existing).config.threads
    common.use_threads(recorded)
    request = planning.Request(
        given=given,
        output=output,
        resume=resumed,
        init_from=init_from,
        force=common.force,
        threads=common.threads,
        device=device,
        processes=torchrun.count(),
    )
    with common.terminal.working() as work:
        source = DatasetLoader(common.data_dir, common.download, common.terminal.warning, work)
        return planning.plan(request, source)


def _run(
    common: options.Common,
    plan: Plan,
    group: Processes,
    device: torch.device,
    *,
    numbered: bool,
    animate: Path | None,
) -> None:
    from vaecli.system.device import require_working
    from vaecli.training import loop, planning

    terminal = common.terminal
    if plan.status == "finished":
        assert plan.path is not None
        terminal.note(f"{plan.path} is finished; nothing to do")
        if animate is not None:
            terminal.warning(f"{animate} was not made: the epochs of a finished run are gone")
        _result(common, plan.path, None)
        return
    if numbered and (twin := planning.unfinished_twin(plan.config)):
        command = shell.join(["vaecli", "train", "--resume", str(twin)])
        terminal.note(f"An unfinished run of these settings exists: {command}")
    summary.show_data(terminal, plan)
    with group.agreed():
        require_working(device)
    with ExitStack() as stack:
        target = _open(stack, plan, group)
        command = _resume_command(common, target.path)
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
                last = watch.show(events, "vaecli: {}. {}".format(*stopped))
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


def _resume_command(common: options.Common, path: Path) -> str:
    """What continues the run, ready for a shell."""
    words = ["vaecli", "train", "--resume", str(path)]
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


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = text.lower().split("x") if "x" in text.lower() else (text, text)
        return int(height), int(width)
    except ValueError:
        raise UsageError(
            f"--image-size {text}: not a size", "Write it like 64, or like 48x64: height x width."
        ) from None


def _max_value(text: str | None) -> float | str | None:
    if text in (None, "auto", "full"):
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--max-value {text}: not a number", "Write a number, full or auto."
        ) from None


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text}: not a list of whole numbers", "Write it like 400 or 300,300."
        ) from None
