"""`vaecli train`: options become a plan, the plan becomes a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaecli import launch
from vaecli.commands import options
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

if TYPE_CHECKING:
    from vaecli.commands.preview import TrainingPreview
    from vaecli.planning import Plan
    from vaecli.processes import Alone
    from vaecli.run import Run

DATA, MODEL, OBJECTIVE, TRAINING = "Data", "Model", "Objective", "Training"
_MODEL = ModelConfig(image_shape=(1, 28, 28))
_TRAINING = TrainConfig()


def _hidden(arch: Arch) -> str:
    return ",".join(map(str, HIDDEN[arch]))


def _tuned(field: str) -> str:
    """The default of a field of TrainConfig, and that of an architecture that has another."""
    others = [
        f", or {recipe[field]:g} for {arch}" for arch, recipe in RECIPES.items() if field in recipe
    ]
    return f"{getattr(_TRAINING, field):g}{''.join(others)}"


def train(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="DATA",
            autocompletion=options.complete_data,
            help=options.with_default(
                "auto, digits, mnist, fashion-mnist, kmnist, cifar10, a folder of images, or an"
                " .npy or .npz file. auto takes MNIST if it can be had, else the built-in digits.",
                "auto",
            ),
            rich_help_panel=DATA,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default("Use only the first N training images.", "all"),
            rich_help_panel=DATA,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default(
                "Crop and resize the images of a folder to N x N.",
                "their own size when all agree and it is at most 64, else 64",
            ),
            rich_help_panel=DATA,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default("1 for grey or 3 for colour.", "as found"),
            rich_help_panel=DATA,
        ),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help=options.with_default("Held-out share where the data has no test split.", "0.1"),
            rich_help_panel=DATA,
        ),
    ] = None,
    skip_bad: options.SkipBad = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help=options.with_default(
                "Run directory: a new one, or an unfinished run of the same settings, which is"
                " continued.",
                "runs/NNN-DATA-ARCH",
            ),
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            autocompletion=options.complete_runs,
            help="Continue this run exactly; latest is the newest unfinished one.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=options.complete_runs,
            help="Start a new run from the weights of this run or .safetensors file; model"
            " settings that are not given are taken from there too.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    arch: Annotated[
        Arch | None,
        typer.Option(
            help=options.with_default(
                "mlp sees an image as one row of numbers; conv is a residual convolutional network"
                " for images of 16x16 or more, slower and better, above all in colour.",
                _MODEL.arch,
            ),
            rich_help_panel=MODEL,
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help=options.with_default(
                "Hidden widths of an mlp, comma separated; channels of the first stage of a conv.",
                f"{_hidden('mlp')}, or {_hidden('conv')} for conv",
            ),
            rich_help_panel=MODEL,
        ),
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option(
            help=options.with_default("Nonlinearity.", _MODEL.activation), rich_help_panel=MODEL
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default("Latent dimension.", str(_MODEL.latent_dim)),
            rich_help_panel=MODEL,
        ),
    ] = None,
    likelihood: Annotated[
        Likelihood | None,
        typer.Option(
            help=options.with_default(
                "Distribution p(x|z) of a pixel: bernoulli suits black and white, and digits (on"
                " grey pixels it is the grey-scale BCE); logistic, over 256 levels with a learned"
                " scale, suits photos and colour, in bits per dimension; gaussian with one learned"
                " sigma, and continuous-bernoulli, are densities of grey levels.",
                f"{_MODEL.likelihood}, or {COLOUR_LIKELIHOOD} for colour",
            ),
            rich_help_panel=MODEL,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help=options.with_default("Weight of the KL.", f"{_TRAINING.beta:g}"),
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    warmup_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default(
                "Epochs over which that weight rises from 0.", str(_TRAINING.warmup_epochs)
            ),
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    free_bits: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help=options.with_default(
                "KL of each latent dimension that is not penalised.", f"{_TRAINING.free_bits:g}"
            ),
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    importance_samples: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help=options.with_default(
                "Latents per image; more than one trains the importance-weighted bound.",
                str(_TRAINING.importance_samples),
            ),
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    binarize: Annotated[
        Binarize | None,
        typer.Option(
            help=options.with_default(options.BINARIZE_HELP, _TRAINING.binarize),
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            "-e",
            metavar="N",
            help=options.with_default("Passes over the training images.", str(_TRAINING.epochs)),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            help=options.with_default("Images per step.", _tuned("batch_size")),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help=options.with_default("Peak learning rate.", _tuned("lr")),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help=options.with_default(
                "Decay after warm-up; constant does neither.", _TRAINING.schedule
            ),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    output_bias: Annotated[
        OutputBias | None,
        typer.Option(
            help=options.with_default(
                "Start of the decoder's output bias: the mean training image, or zero.",
                _TRAINING.output_bias,
            ),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help=options.with_default(
                "Of matrix products while training: bf16 is faster where the processor has it,"
                " tf32 exists on CUDA. Evaluation is always in fp32.",
                _TRAINING.precision,
            ),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=options.with_default(
                "Stop after N epochs without a better loss on a tenth of the training images,"
                " which is held out of training, and keep the best weights. 0: never.",
                "0",
            ),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: options.Seed = None,
    preview: options.Preview = None,
    animate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.gif",
            help="An animation of the same latents decoded after each epoch.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan and write nothing.", rich_help_panel=options.OUTPUT
        ),
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

    \b
      vaecli train --epochs 20
      vaecli train --data mnist --latent-dim 2 -o runs/flat
      vaecli train --data photos/ --arch conv
      vaecli train --binarize dynamic --importance-samples 50
      vaecli train --animate epochs.gif
      vaecli train --resume latest
    """
    common = options.Common.of(ctx)
    given = {
        "data": data,
        "limit": limit,
        "image_size": image_size,
        "channels": channels,
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
        _check_animation(animate, force=common.force)
    numbered = output is None and resume is None
    if launch.by_torchrun():
        if numbered:
            raise UsageError(
                "torchrun needs --output or --resume: a group that is started again must find"
                " its run",
                "Name the run directory with -o.",
            )
        if launch.restarts():
            common = replace(common, force=False)  # it was obeyed the first time

    def make_plan() -> Plan:
        plan = _plan(common, given, output, resume, init_from)
        taken = plan.config.model.likelihood
        chosen_for_them = plan.status == "new" and init_from is None and likelihood is None
        if chosen_for_them and taken != _MODEL.likelihood:
            common.terminal.note(
                f"colour images: taking --likelihood {taken}, a probability of the 256 levels of a"
                " pixel; --likelihood chooses another"
            )
        return plan

    if dry_run:
        if launch.rank() == 0:
            _show(common, make_plan())
        return
    from vaecli import processes
    from vaecli.device import resolve

    where = resolve(common.device)
    group = processes.join(where)
    with group.together():
        plan = _agree(common, group, make_plan)
        _run(common, plan, group, where, numbered=numbered, animate=animate)


def _agree(common: options.Common, group: Alone, make_plan: Callable[[], Plan]) -> Plan:
    """The plan of the first process for all; on each machine one prepares the images first."""
    from vaecli import planning

    plan = None
    with group.agreed(preparing=True):
        if group.first:
            plan = make_plan()
    told = group.share_value(None if plan is None or group.count == 1 else plan.to_json())
    source = planning.Source(common.data_dir, common.download)
    for turn in (launch.local_rank() == 0, True):
        with group.agreed(preparing=True):
            if plan is None and turn:
                common.use_threads()
                plan = planning.followed(told, source)
    assert plan is not None
    return plan


def _check_animation(path: Path, *, force: bool) -> None:
    from vaecli import outputs

    if path.suffix != ".gif":
        raise UsageError(f"--animate {path}: not a name ending in .gif")
    outputs.require_new([path], force=force)


def _plan(
    common: options.Common,
    given: dict[str, Any],
    output: Path | None,
    resume: str | None,
    init_from: str | None,
) -> Plan:
    from vaecli import device, planning, run

    resumed = None
    if resume is not None:
        resumed = planning.latest_unfinished() if resume == run.LATEST else Path(resume)
    existing = resumed or output
    recorded = None
    if existing is not None and not common.force and run.is_run(existing):
        recorded = run.open_run(existing).config.environment.get("threads")
    common.use_threads(recorded if isinstance(recorded, int) else None)
    request = planning.Request(
        given=given,
        output=output,
        resume=resumed,
        init_from=init_from,
        force=common.force,
        threads=common.threads,
        device=device.resolve(common.device).type,
        processes=launch.count(),
    )
    with common.terminal.working() as work:
        source = planning.Source(common.data_dir, common.download, common.terminal.warning, work)
        return planning.plan(request, source)


def _run(
    common: options.Common,
    plan: Plan,
    group: Alone,
    device: Any,
    *,
    numbered: bool,
    animate: Path | None,
) -> None:
    from vaecli import planning
    from vaecli.device import require_working
    from vaecli.signals import stop_flag

    terminal = common.terminal
    if plan.status == "finished":
        assert plan.path is not None
        terminal.note(f"{plan.path} is finished; nothing to do")
        if animate is not None:
            terminal.warning(f"{animate} was not made: the epochs of a finished run are gone")
        _result(common, plan.path, None)
        return
    if numbered and (twin := planning.unfinished_twin(plan.config)):
        terminal.note(f"An unfinished run of these settings exists: vaecli train --resume {twin}")
    with group.agreed():
        require_working(device)
    with ExitStack() as stack:
        target = _open(stack, plan, group)
        command = _resume_command(common, target.path)
        stopped = f"stopped; the state is saved in {target.path}", f"Continue with: {command}"
        try:
            with stop_flag.deferred():
                show = _Show(common, target, plan, group, device, animate)
                last = show.watch("vaecli: {}. {}".format(*stopped))
        except KeyboardInterrupt:
            raise StoppedError(stop_flag.exit_code, *stopped) from None
        except OSError as error:
            error.add_note(f"Then continue with: {command}")
            raise
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                smaller = max(1, plan.config.training.batch_size // 2)
                error.add_note(f"Start again with --batch-size {smaller}.")
            raise
    _result(common, target.path, last)


def _open(stack: ExitStack, plan: Plan, group: Alone) -> Run:
    """The run of `plan`, which the first process holds until the end of `stack`."""
    from vaecli.run import Run

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
    return shlex.join(words)


class _Show:
    """Trains a run, and shows what happens: lines, pictures, the animation."""

    def __init__(
        self,
        common: options.Common,
        target: Run,
        plan: Plan,
        group: Alone,
        device: Any,
        animate: Path | None,
    ) -> None:
        self.common, self.target, self.plan, self.device = common, target, plan, device
        self.group = group
        self.animate = animate if group.first else None
        self.film: Any = None

    def watch(self, last_words: str) -> Any:
        """Train; returns the last row of metrics."""
        from vaecli import training
        from vaecli.signals import stop_flag

        terminal, config = self.common.terminal, self.plan.config.training
        events = training.train(
            self.target,
            self.plan.dataset,
            device=self.device,
            should_stop=lambda: stop_flag.received is not None,
            initial=self.plan.initial,
            processes=self.group,
        )
        last = None
        n_train = config.fitted(len(self.plan.dataset.train))
        with terminal.training(config.epochs, n_train) as view:
            for event in events:
                match event:
                    case training.Started():
                        _introduce(self.common, self.target, self.plan, event, self.device)
                        view.start(event.epoch * n_train + event.images)
                        preview = self._start(event)
                        view.picture(preview.lines())
                    case training.Step():
                        view.step(event.epoch, event.images, event.distortion, event.rate)
                    case training.EpochEnd():
                        view.epoch(event.metrics)
                        view.picture(preview.lines())
                        self._add_frame(event.metrics.epoch, event.metrics.test_loss)
                    case training.Saved():
                        seen = f" and {event.images:,} images" if event.images else ""
                        terminal.detail(f"saved after {event.epoch} epochs{seen}")
                    case training.Notice():
                        terminal.warning(event.text)
                    case training.Stopped():
                        raise KeyboardInterrupt
                    case training.Finished():
                        view.picture(preview.lines(last=True))
                        last = event.metrics[event.epoch - 1]
                        if last.epoch < event.metrics[-1].epoch:
                            terminal.note(f"the weights are those of epoch {last.epoch}, the best")
                        self._write_film()
                        stop_flag.leave_with(last_words)  # pictures can be drawn again
        return last

    def _start(self, event: Any) -> TrainingPreview:
        from vaecli.commands.preview import ACROSS, TrainingPreview

        if self.animate is not None:
            from vaecli.animation import Animation

            self.film = Animation(event.model, seed=self.plan.config.training.seed)
            self._add_frame(event.epoch, None)
            if event.epoch:
                self.common.terminal.warning(
                    f"{self.animate} starts at epoch {event.epoch}, where this run is continued"
                )
        shown = self.plan.dataset.test.pixels[:ACROSS].to(self.device)
        return TrainingPreview(self.common.terminal, event.model, shown)

    def _add_frame(self, epoch: int, loss: float | None) -> None:
        if self.film is not None:
            title = f"epoch {epoch} of {self.plan.config.training.epochs}"
            self.film.add(title if loss is None else f"{title}   test loss {loss:.1f} nats")

    def _write_film(self) -> None:
        from vaecli import files

        if self.film is not None and self.animate is not None:
            files.make_folder(self.animate.parent)
            files.atomic_write(self.animate, self.film.encode())
            self.common.terminal.note(f"animation: {self.animate}")


def _introduce(common: options.Common, target: Any, plan: Plan, event: Any, device: Any) -> None:
    import torch

    verb = "continuing" if event.epoch or event.images else "training"
    model, threads = plan.config.model, torch.get_num_threads()
    common.terminal.prose(
        f"{verb} {target.path}: {model.arch} {_widths_text(model)},"
        f" {event.parameters:,} parameters, {event.n_train:,} {plan.dataset.name} images"
        f" (test {event.n_test:,}), {device.type} with {threads} thread{'s' * (threads != 1)}"
    )


def _result(common: options.Common, path: Path, last: Any) -> None:
    from dataclasses import asdict

    if common.terminal.json:
        common.terminal.object(
            {"run": str(path), "metrics": None if last is None else asdict(last)}
        )
    else:
        common.terminal.data(str(path))


def _show(common: options.Common, plan: Plan) -> None:
    """The plan of --dry-run."""
    from vaecli.model import count_activations, count_parameters

    model, training, data = plan.config.model, plan.config.training, plan.config.data
    parameters = count_parameters(model)
    fitted = training.fitted(data.n_train)
    batch = min(training.batch_size, fitted)
    steps = -(-fitted // batch)
    images = (data.n_train + data.n_test) * model.pixels
    activations = count_activations(model) + 6 * model.pixels
    memory = images + 16 * parameters + 4 * batch * activations
    value = {
        "output": None if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": {"parameters": parameters, **_plain(model)},
        "training": {"steps_per_epoch": steps, **_plain(training)},
        "data": _plain(data),
        "memory_bytes": memory,
    }
    texts = {
        "output": "the next number under runs/" if plan.path is None else str(plan.path),
        "status": plan.status,
        "model": f"{model.arch} {_widths_text(model)}, {model.activation}, {model.likelihood},"
        f" {parameters:,} parameters",
        "data": f"{data.name}: {data.n_train:,} training and {data.n_test:,} test images of"
        f" {'x'.join(map(str, model.image_shape))}",
        "steps": f"{training.epochs} epochs of {steps:,} steps of {batch} images",
        "recipe": f"lr {training.lr:g}, {training.schedule}, output bias {training.output_bias},"
        f" seed {training.seed}",
        "objective": _objective_text(training),
        "memory": f"about {memory / 1e6:,.0f} MB besides torch itself",
    }
    common.terminal.values(value, texts)


def _objective_text(training: TrainConfig) -> str:
    parts = [
        f"--{name.replace('_', '-')} {value}"
        for name in ("beta", "warmup_epochs", "free_bits", "importance_samples", "binarize")
        if (value := getattr(training, name)) != getattr(_TRAINING, name)
    ]
    return ", ".join(parts) or "the loss itself"


def _plain(config: Any) -> dict[str, Any]:
    from vaecli.config import to_json

    return to_json(config)


def _widths_text(model: ModelConfig) -> str:
    if model.arch == "conv":
        from vaecli.convolution import stages

        sizes = ["x".join(map(str, shape)) for shape in (model.image_shape, *stages(model))]
        return "-".join([*sizes, str(model.latent_dim), *reversed(sizes)])
    widths = [model.pixels, *model.hidden, model.latent_dim, *reversed(model.hidden), model.pixels]
    return "-".join(map(str, widths))


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text}: not a list of whole numbers", "Write it like 400 or 300,300."
        ) from None
