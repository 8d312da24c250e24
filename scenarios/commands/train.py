"""`stemtwin train`: weights from nothing, with progress, checkpoints and the latent-space figure."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from controller.training.frames import Progress

app = typer.Typer(help="Train what the controllers use.", no_args_is_help=True, rich_markup_mode=None)

FRAMES = Path("runs/train/frames")

Variant = Literal["random_days", "nominal"]
ScenarioName = Annotated[str, typer.Argument(help="Gives optics and state; its day is not looked at.")]
Days = Annotated[int, typer.Option(min=20, help="Simulated days.")]
WideDays = Annotated[int, typer.Option(min=20, help="Simulated days over the whole range.")]
LoopDays = Annotated[int, typer.Option(min=1, help="Days with states where a closed loop goes.")]
FramesPerDay = Annotated[int, typer.Option(min=2, help="Frames of each day.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the frames.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything.")]
Workers = Annotated[int, typer.Option(min=0, help="Simulating processes; 0 is one per core.")]
Threads = Annotated[int, typer.Option(min=0, help="That fit the network; 0 is one per core.")]
Out = Annotated[Path | None, typer.Option(help="Weights file [default: in the work folder].")]
Work = Annotated[Path, typer.Option(help="Work folder; a second call resumes there.")]
Frames = Annotated[Path, typer.Option(help="Where simulated frames are kept; trainings share them.")]


@app.callback()
def _train() -> None:
    pass


@app.command()
def vae(
    scenario: ScenarioName = "day_a",
    variant: Annotated[
        Variant, typer.Option(help="Days to train on: drawn at random, or the nominal one.")
    ] = "random_days",
    latent: Annotated[int, typer.Option(min=1, help="Latent dimension n_z.")] = 6,
    days: Days = 1200,
    frames_per_day: FramesPerDay = 16,
    epochs: Epochs = 20,
    modes: Annotated[int, typer.Option(min=0, help="Day modes of the latent map.")] = 4,
    kernel: Annotated[str, typer.Option(help="Kernel of the day-to-day deviation.")] = "rbf",
    seed: Seed = 1,
    workers: Workers = 0,
    threads: Threads = 0,
    out: Out = None,
    work: Annotated[Path | None, typer.Option(help="Work folder; a second call resumes there.")] = None,
    frames: Frames = FRAMES,
) -> None:
    """Train the VAE and its latent prior; run again after an interruption to resume."""
    _use_threads(threads)

    from controller.training.vae import TrainConfig, train_vae
    from scenarios import schema
    from scenarios.commands.latent_space import draw

    name = f"vae_{variant}" if latent == 6 else f"vae_{variant}_{latent}"
    folder = work or Path("runs/train") / name
    target = out or folder / f"{name}.safetensors"
    with _told(f"the same command resumes from {folder}"):
        chosen = schema.load(scenario)
        config = TrainConfig(
            chosen.optics,
            chosen.space,
            variant,
            days,
            frames_per_day,
            latent,
            epochs,
            modes=modes,
            kernel=kernel,
            seed=seed,
        )
        trained = train_vae(config, target, folder, frames, _bars(name), workers)
    ratio = draw(trained, chosen.space, folder / "latent_space.png")
    typer.echo(f"weights       {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"held-out ELBO {trained.provenance['held_out_elbo_nats']:.1f} nats per frame")
    typer.echo(f"latent space  {folder / 'latent_space.png'} (antipodes at {ratio:.2f} of a random pair's distance)")


@app.command()
def quality(
    scenario: ScenarioName = "day_a",
    days: Days = 1200,
    frames_per_day: FramesPerDay = 16,
    epochs: Epochs = 8,
    seed: Seed = 1,
    workers: Workers = 0,
    threads: Threads = 0,
    out: Out = None,
    frames: Frames = FRAMES,
) -> None:
    """Train the network of bo_scalar, on the frames of the VAE if there are any."""
    _use_threads(threads)

    from controller.merit.quality_network import train_quality
    from controller.training.vae import TrainConfig
    from scenarios import schema

    target = out or Path("runs/train/quality/quality.safetensors")
    with _told(f"simulated frames stay in {frames}, the same command goes on from there"):
        chosen = schema.load(scenario)
        config = TrainConfig(
            chosen.optics, chosen.space, days=days, frames_per_day=frames_per_day, epochs=epochs, seed=seed
        )
        trained = train_quality(config, target, frames, _bars("quality"), workers)
    typer.echo(f"weights     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"held-out R2 {trained.provenance['held_out_r2']:.3f} of log(1 + |x| / 5 nm)")


@app.command()
def posterior(
    scenario: Annotated[str, typer.Argument(help="Gives the optics; its day is not looked at.")] = "day_a",
    days: WideDays = 750,
    loop_days: LoopDays = 950,
    frames_per_day: FramesPerDay = 16,
    epochs: Epochs = 20,
    seed: Seed = 1,
    workers: Workers = 0,
    threads: Threads = 0,
    out: Out = None,
    work: Work = Path("runs/train/posterior"),
    frames: Frames = FRAMES,
) -> None:
    """Train the amortised posterior of neural_posterior, for first and second order; run again to resume."""
    _use_threads(threads)

    from controller.training.posterior import PosteriorTraining, train_posterior
    from scenarios import schema

    target = out or work / "posterior.safetensors"
    with _told(f"the same command resumes from {work}"):
        config = PosteriorTraining(
            schema.load(scenario).optics,
            days=days,
            loop_days=loop_days,
            frames_per_day=frames_per_day,
            epochs=epochs,
            seed=seed,
        )
        trained = train_posterior(config, target, work, frames, _bars("posterior"), workers)
    typer.echo(f"weights     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    found = trained.provenance
    typer.echo(
        f"held out    {found['held_out_state_nats']:.2f} nats per state, {found['held_out_nuisance_nats']:.2f} per day"
    )
    typer.echo(f"correlation {trained.correlation:.3f} between the errors of a run's frames")


@app.command()
def regression(
    scenario: ScenarioName = "day_a",
    days: WideDays = 750,
    loop_days: LoopDays = 950,
    frames_per_day: FramesPerDay = 16,
    epochs: Epochs = 10,
    seed: Seed = 1,
    workers: Workers = 0,
    out: Out = None,
    work: Work = Path("runs/train/regression"),
    frames: Frames = FRAMES,
) -> None:
    """Train the network of cnn_regression, on the frames of the posterior; run again to resume."""
    _use_threads(1)

    from controller.training.regression import RegressionTraining, train_regression
    from scenarios import schema

    target = out or work / "regression.safetensors"
    with _told(f"the same command resumes from {work}"):
        chosen = schema.load(scenario)
        config = RegressionTraining(chosen.optics, chosen.space, days, loop_days, frames_per_day, epochs, seed=seed)
        trained = train_regression(config, target, work, frames, _bars("regression"), workers)
    typer.echo(f"weights     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"held out    {trained.provenance['held_out_median_nm']:.2f} nm median error of one frame, sign given")
    typer.echo(f"correlation {trained.correlation:.3f} between the errors of a run's frames")


@app.command()
def ppo(
    scenario: ScenarioName = "day_a",
    steps: Annotated[int, typer.Option(min=1, help="Surrogate steps, all runs together.")] = 2_000_000,
    reader: Annotated[
        str, typer.Option(help="Weights of `train regression`: a shipped name or a file.")
    ] = "regression",
    seed: Seed = 1,
    workers: Workers = 0,
    out: Out = None,
    work: Work = Path("runs/train/ppo"),
    frames: Frames = FRAMES,
) -> None:
    """Train the policy of ppo by Stable-Baselines3, on the regression network's readings; run again to resume."""
    import importlib.util

    if importlib.util.find_spec("stable_baselines3") is None:
        typer.echo("training needs stable_baselines3: pip install 'stemtwin[rl]'", err=True)
        raise typer.Exit(2)
    _use_threads(1)

    from controller.regression import network as regression_network
    from controller.training.ppo import PpoTraining, train_ppo
    from scenarios import schema

    target = out or work / "ppo.safetensors"
    with _told(f"the same command resumes from {work}"):
        chosen = schema.load(scenario)
        read_by = regression_network.load_for(reader, chosen.optics, chosen.space)
        config = PpoTraining(chosen.optics, chosen.space, steps, seed=seed)
        trained = train_ppo(config, read_by, target, work, frames, _bars("ppo"), workers)
    errors = trained.provenance["median_error_nm"]
    typer.echo(f"weights      {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(
        f"median error {errors[1]:.1f} nm after 2 frames of random days, {errors[-1]:.1f} nm after {len(errors)}"
    )


def _use_threads(count: int) -> None:
    """Of torch, in this process; 0 is one per core."""
    # Idle threads that spin starve the others on a busy machine; read once, when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(count or os.cpu_count() or 1)


@contextmanager
def _told(interrupted: str) -> Iterator[None]:
    """Refusals become one line and exit code 2; Ctrl-C says what it leaves behind and exits with 130."""
    try:
        yield
    except ValueError as error:  # a scenario's, a folder's and a configuration's errors are all of this kind
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted; {interrupted}", err=True)
        raise typer.Exit(130) from None


def _bars(training: str) -> "Progress":
    """One progress bar per stage, on stderr; they name the training, for two may share a terminal."""
    from tqdm import tqdm

    bars: dict[str, tqdm[NoReturn]] = {}

    def show(stage: str, done: int, total: int, note: str) -> None:
        bar = bars.get(stage)
        if bar is None:
            bar = bars[stage] = tqdm(total=total, desc=f"{training}: {stage}")
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show
