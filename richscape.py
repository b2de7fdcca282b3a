"""richscape: the γ–η plane of feature learning, from theory to trained networks. One subcommand for each wing.

The four wings are also here by name, loaded when first used: ``richscape.theory``, ``richscape.simulate``,
``richscape.empirical``, ``richscape.paper_figures``.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import arg

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from empirical.runners import Runner
    from empirical.shard import TrainingConfig
    from empirical.store import RunDirectory

WINGS = ("theory", "simulate", "empirical", "paper_figures")
Range = Annotated[tuple[float, float, int], arg(metavar="LO HI N")]


def __getattr__(name: str) -> ModuleType:
    """Load a wing when it is first asked for, and see that it is ours: the names are common words."""
    if name not in WINGS:
        raise AttributeError(f"module 'richscape' has no attribute {name!r}")
    _check_origin(name)
    return importlib.import_module(name)


def _check_origin(name: str) -> None:
    """See, without importing it, that a wing would come from beside this file."""
    spec, ours = importlib.util.find_spec(name), Path(__file__).resolve().parent / name
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    if found is None or found.parent != ours:
        raise ImportError(f"{name} is found at {found}, which shadows richscape's own at {ours}")


def _grid(field: str, given: tuple[float, float, int]) -> NDArray[np.float64]:
    """LO HI N as log-spaced points, ends included."""
    import numpy as np

    from theory.errors import InputError, positive_number

    low, high, count = positive_number(f"--{field} LO", given[0]), positive_number(f"--{field} HI", given[1]), given[2]
    if low >= high:
        raise InputError(f"--{field} LO HI", (low, high), "ascending: LO < HI")
    if count < 1:
        raise InputError(f"--{field} N", count, "an integer >= 1")
    return np.geomspace(low, high, count)


@dataclass(frozen=True)
class Derive:
    """Print the toy model's boundaries and their derivation, with a mark for every check."""

    loss: Literal["mse", "cross-entropy"] = "mse"
    """Loss of the toy model."""
    optimizer: Literal["gd", "momentum", "sign"] = "gd"
    """Optimizer of the toy model."""
    depth: int | None = None
    """Weight layers L of the table; symbolic when not given. The steps hold for every L."""
    chapter: Literal[
        "flow_forms", "cascade", "crisis", "band", "catapult", "deep_linear", "conserved", "euler_degree", "degree_law",
        "kernel_growth", "residual", "residual_stages", "all",
    ] | None = None  # fmt: skip
    """A further chapter to derive and check after the plane itself; all for every one."""
    out: Path | None = None
    """Also write all of it to this file: .md, .tex or .html."""

    def run(self) -> None:
        """Print the table, then the derivation; a falsified step ends in exit code 1."""
        from theory import FalsifiedStepError, ToyModel
        from theory.document import write_up
        from theory.errors import positive_integer
        from theory.rendering import checked_suffix, save

        if self.depth is not None:
            positive_integer("--depth", self.depth)
        if self.out is not None:
            checked_suffix(self.out)
        model = ToyModel(loss=self.loss, optimizer=self.optimizer)
        document = write_up(model, self.depth, self.chapter, lambda text: print(text, flush=True))
        if self.out is not None:
            save(document, self.out)
            print(f"written to {self.out}")
        if not all(result.passed for result in document.results):
            print(f"richscape: {FalsifiedStepError(document.title, document.results)}", file=sys.stderr)
            raise SystemExit(1)


@dataclass(frozen=True)
class Simulate:
    """Phase portrait of the toy model, with the exact boundaries drawn on it."""

    out: Path
    """Directory for portrait.nc, boundaries.csv, PNG and SVG; the same command goes on with it."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """Loss; cross-entropy has the soft label σ(1)."""
    depth: int = 3
    """Number of weights L."""
    gamma: Range = (1e-4, 1e4, 161)
    """Feature-learning strengths, log-spaced."""
    eta: Range = (1e-12, 1e6, 217)
    """Learning rates on the L separate weights, log-spaced."""
    steps: int = 10_000
    """Training budget T."""
    optimizer: Literal["gd", "momentum", "sign"] = "gd"
    """Gradient descent, heavy ball, or sign descent."""
    beta: float = 0.9
    """Momentum of the heavy ball."""
    label_noise: float = 0.0
    """Standard deviation of one example's label noise."""
    batch: int | None = None
    """Examples in a batch of Gaussian inputs; the one input x = 1 when not given."""
    seeds: int = 1
    """Number of seeds of the noise, from 0."""

    def run(self) -> None:
        """Run the grid, read the boundaries off it, draw it."""
        from empirical.progress import ProgressBar
        from empirical.store import RunDirectory
        from empirical.toy import kept_toy_portrait
        from paper_figures.portrait import write_portrait
        from simulate import Noise, check_grid
        from theory.errors import InputError, positive_integer

        for name in ("depth", "steps", "seeds"):
            positive_integer(f"--{name}", getattr(self, name))
        if not 0 <= self.beta < 1:
            raise InputError("--beta", self.beta, "at least 0 and below 1")
        noise = Noise(self.label_noise, self.batch)
        if self.seeds > 1 and not noise:
            raise InputError("--seeds", self.seeds, "1 where there is no noise: every seed would be the same run")
        check_grid(self.gamma[2], self.eta[2], self.seeds)
        gamma, eta = _grid("gamma", self.gamma), _grid("eta", self.eta)
        config = {"command": "simulate"} | {name: value for name, value in asdict(self).items() if name != "out"}
        store = RunDirectory(self.out, config)
        with ProgressBar() as progress:
            portrait = kept_toy_portrait(
                store, progress, loss=self.loss, depth=self.depth, gamma=gamma, eta=eta, steps=self.steps,
                optimizer=self.optimizer, beta=self.beta, noise=noise, seeds=self.seeds,
            )  # fmt: skip
        identity = {"arch": "toy", "variant": "balanced", "depth": self.depth, "loss": self.loss}
        identity["optimizer"] = self.optimizer
        print(write_portrait(store, portrait, identity))


@dataclass(frozen=True)
class _Networks:
    """What sweeps and traces of networks have in common."""

    out: Path
    """Directory of the run; the same command goes on with it."""
    arch: str = "mlp"
    """Architecture, bias-free and in μP: mlp, cnn, resnet or vit; or module:Class, a torch.nn.Module of your own."""
    depth: int | None = None
    """Weight layers L; 3 when not given. Of a resnet or a vit it follows from the blocks."""
    width: int | None = None
    """Hidden width N; 64 (mlp), 16 (cnn), 8 (resnet), 32 (vit) when not given."""
    activation: Literal["relu", "linear", "tanh", "gelu"] | None = None
    """Activation; when not given, gelu for a vit and relu for the others."""
    strides: tuple[int, ...] | None = None
    """Of a cnn's convolutions; when not given, 2 until the image is at most 4 pixels wide, then 1."""
    blocks: int | None = None
    """Blocks of a resnet or a vit; 2 when not given."""
    norm: Literal["none", "layer"] | None = None
    """LayerNorm in each block: none (resnet) or layer (vit) when not given."""
    final_norm: bool | None = None
    """LayerNorm before the readout of a resnet or a vit; False when not given."""
    norm_gain: bool | None = None
    """Whether LayerNorms have learnable gains; False when not given."""
    heads: int | None = None
    """Attention heads of a vit; 2 when not given."""
    patch: int | None = None
    """Side of a vit's patches in pixels; when not given, a quarter of the image, rounded up."""
    frozen: tuple[str, ...] | None = None
    """Tensors of a resnet or a vit that stay at their start, by their names or parts of them, such as query key."""
    data: str = "fashion-mnist-deformed"
    """Data stream: fashion-mnist-deformed ships; fashion-mnist-full-deformed, mnist-deformed, fashion-mnist, mnist,
    mnist-1m, cifar-10, cifar-5m and tiny-imagenet need files (docs/data.md); teacher-linear, teacher-mlp:LAYERSxWIDTH
    and teacher-single-index:DEGREE are regressions on Gaussian inputs."""
    data_root: str | None = None
    """Folder of all data sets; $RICHSCAPE_DATA, or data in the current directory, when not given."""
    image_size: int = 14
    """Side of the images in pixels, a divisor of their own: 7, 14, 28; 8, 16, 32. The input dimension of a teacher."""
    batch_size: int = 64
    """Examples in a batch."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """Loss, against one-hot targets."""
    optimizer: Literal["gd", "momentum", "adam", "sign"] = "gd"
    """Stochastic gradient descent, heavy ball, Adam, or sign descent."""
    beta: float = 0.9
    """Momentum of the heavy ball, and Adam's first."""
    schedule: Literal["constant", "warmup", "cosine", "warmup-cosine"] = "constant"
    """How the learning rate changes along the budget; warm-ups are linear, the cosine ends at zero."""
    warmup: float = 0.05
    """Share of the budget that a warm-up takes."""
    weight_decay: float = 0.0
    """Weight decay, of the weights as they act: as in SGD for gd and momentum, as in AdamW for adam and sign."""
    label_noise: float = 0.0
    """Probability that the label of a training example is drawn anew, from all classes alike."""
    gamma: Range = (1e-3, 1e3, 7)
    """Feature-learning strengths, log-spaced."""
    steps: int = 1000
    """Training budget T."""
    seeds: int = 1
    """Number of seeds, from 0."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, mps; several with commas between them (cuda:0,cuda:1), or cuda:all."""
    workers: int | None = None
    """Processes that train, one thread each; when not given, as many as cores, or one for each GPU."""

    def training(self) -> TrainingConfig:
        """The training configuration, checked."""
        from empirical.runners import device_list
        from empirical.shard import TrainingConfig
        from theory.errors import positive_integer

        positive_integer("--seeds", self.seeds)
        names = {field.name for field in fields(TrainingConfig)} & {field.name for field in fields(self)} - {"device"}
        return TrainingConfig(device=device_list(self.device)[0], **{name: getattr(self, name) for name in names})

    def store(self, command: str) -> RunDirectory:
        """The run directory."""
        from empirical.runners import device_list
        from empirical.store import RunDirectory

        config = asdict(self) | asdict(self.training().shape) | {"device": device_list(self.device)[0]}
        for name in ("out", "workers"):  # nothing that is computed depends on these, nor on which device of a kind
            del config[name]
        return RunDirectory(self.out, {"command": command} | config)

    def runner(self) -> Runner:
        """Who trains."""
        from empirical.runners import runner_on

        return runner_on(self.device, self.workers)


@dataclass(frozen=True)
class SweepCommand(_Networks):
    """Train a grid of networks: their phase portrait, with the toy's exact boundaries drawn on it."""

    eta: Range = (1e-8, 1e4, 13)
    """Learning rates before the width multiplier, log-spaced."""

    def run(self) -> None:
        """Train what is missing, then write the portrait."""
        from empirical.progress import ProgressBar
        from empirical.sweep import Sweep, sweep_portrait
        from paper_figures.portrait import write_portrait

        gamma, eta = _grid("gamma", self.gamma), _grid("eta", self.eta)
        training = self.training()
        store = self.store("sweep")
        total = len(gamma) * len(eta) * self.seeds * self.steps
        with self.runner() as runner, ProgressBar() as progress:
            progress.plan(total)
            progress.phase(f"{total // self.steps} networks", total)
            sweep = Sweep(training, store, lambda _cells, steps, held: progress.advance(steps, held), runner)
            portrait = sweep_portrait(sweep, gamma, eta, tuple(range(self.seeds)))
        print(write_portrait(store, portrait, training.identity()))


@dataclass(frozen=True)
class TraceCommand(_Networks):
    """Trace the boundaries of networks by multisection, and fit their exponents where theory allows."""

    boundaries: tuple[Literal["eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star"], ...] = (
        "eta_min",
        "eta_crit",
        "eta_fail",
    )
    """Boundaries to trace."""
    resolution: float = 0.01
    """Precision, in decades: the widest final bracket of η."""

    def run(self) -> None:
        """Trace, write boundaries.csv and exponents.csv, print the fits."""
        from empirical.progress import ProgressBar
        from empirical.sweep import Sweep
        from empirical.trace import NETWORK_TRACE, expected_cells, trace_networks
        from empirical.trace_tables import trace_tables
        from theory import InputError
        from theory.errors import positive_number

        gamma = _grid("gamma", self.gamma)
        positive_number("--resolution", self.resolution)
        if not self.boundaries:
            raise InputError("--boundaries", self.boundaries, "at least one boundary")
        training = self.training()
        store = self.store("trace")
        settings = replace(NETWORK_TRACE, resolution=self.resolution)
        with self.runner() as runner, ProgressBar() as progress:
            total = expected_cells(training, gamma, len(self.boundaries), self.seeds, settings) * self.steps
            progress.plan(total)
            progress.phase("boundaries", total)
            sweep = Sweep(training, store, lambda _cells, steps, held: progress.advance(steps, held), runner)
            traced = trace_networks(sweep, gamma, self.boundaries, seeds=self.seeds, settings=settings)
        points_table, fits, refused = trace_tables(training, traced, gamma)
        print(*refused, sep="\n", end="\n" if refused else "", file=sys.stderr)
        store.write("boundaries.csv", points_table.to_csv(index=False, float_format="%.10g"))
        store.write("exponents.csv", fits.to_csv(index=False, float_format="%.10g"))
        shown = points_table[["seed", "boundary", "gamma", "eta", "eta_low", "eta_high"]]
        print(shown.to_string(index=False, float_format="%.4g") if len(shown) else "no boundary was met")
        if len(fits):
            kept = ["boundary", "regime", "predicted_window", "fitted", "ci_low", "ci_high", "n_points", "verdict"]
            print(fits[kept].to_string(index=False, float_format="%.3f"))
        print(f"written to {store.path}: boundaries.csv, exponents.csv, manifest.json")


@dataclass(frozen=True)
class Compare:
    """Theory against experiment: overlay figure, fitted exponents with intervals, report. The main job."""

    out: Path
    """Directory of the run; the same command goes on with it."""
    preset: Literal["quick", "full"] = "quick"
    """quick: MLPs, minutes on two cores. full: the committed campaign over all architectures, hours on two cores."""
    campaign: Path | None = None
    """A campaign file to run in place of a preset; see docs/campaigns.md."""
    depths: tuple[int, ...] | None = None
    """Weight layers L to compare, in place of the preset's."""
    width: int | None = None
    """Hidden width N, in place of the preset's."""
    steps: int | None = None
    """Training budget T, in place of the preset's."""
    seeds: int | None = None
    """Number of seeds, in place of the preset's."""
    first_seed: int | None = None
    """First seed of a campaign, in place of its file's: the same on networks and data that it has not seen."""
    data: str | None = None
    """Data stream, in place of the preset's."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, mps; several with commas between them (cuda:0,cuda:1), or cuda:all."""
    workers: int | None = None
    """Processes that train, one thread each; when not given, as many as cores, or one for each GPU."""

    def run(self) -> None:
        """Compute what is missing, then draw and report."""
        from rich.console import Console

        if self.campaign is not None or self.preset == "full":
            self._run_campaign()
            return
        if self.first_seed is not None:
            from theory.errors import InputError

            raise InputError("--first-seed", self.first_seed, "left out: it is for campaigns (--campaign)")
        from empirical.compare import PRESETS, compare, save
        from empirical.progress import ProgressBar
        from empirical.runners import device_list, runner_on
        from empirical.store import RunDirectory
        from paper_figures.report import render, summary, terminal_table

        names = ("depths", "width", "steps", "seeds", "data")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        kind, _ = device_list(self.device)
        config = replace(PRESETS[self.preset], device=kind, **given)
        store = RunDirectory(self.out, config.describe())
        with runner_on(self.device, self.workers) as runner, ProgressBar() as progress:
            comparison = compare(config, store, progress, runner)
        save(comparison, store)
        render(comparison, store)
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(terminal_table(comparison))
        console.print(summary(comparison))
        console.print(f"\nIn {store.path}: {', '.join(store.files())}", soft_wrap=True)

    def _run_campaign(self) -> None:
        """Run a campaign; tables and report are there after its first unit, and complete with its last."""
        from rich.console import Console

        from empirical.campaign import load, run_campaign
        from empirical.progress import ProgressBar
        from empirical.runners import device_list, runner_on
        from empirical.store import RunDirectory
        from paper_figures.campaign_report import FULL, Reporter, terminal_table
        from theory.errors import InputError

        for name in ("depths", "width", "steps", "seeds", "data"):
            if getattr(self, name) is not None:
                raise InputError(f"--{name}", getattr(self, name), "left out: a campaign's file sets it (--campaign)")
        if self.campaign is not None and self.preset == "full":
            raise InputError("--preset", self.preset, "left out where --campaign is given")
        campaign = load(self.campaign or FULL)
        if self.first_seed is not None:
            campaign = campaign.from_seed(self.first_seed)
        kind, _ = device_list(self.device)
        store = RunDirectory(self.out, {"command": "compare"} | campaign.describe() | {"device": kind})
        reporter = Reporter(store)
        with runner_on(self.device, self.workers) as runner, ProgressBar() as progress:
            found = run_campaign(campaign, store, progress, runner, device=kind, on_unit=reporter)
        reporter.finish(found)
        Console(width=None if sys.stdout.isatty() else 120).print(terminal_table(found))
        print(f"In {store.path}: {', '.join(reporter.files())}")


@dataclass(frozen=True)
class Figures:
    """The paper's figures, main ones and appendix, their captions, and the ledger of claims."""

    out: Path
    """Directory of the run; the same command goes on with it, other figures of the same scale join it."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME …|all")] = ("all",)
    """Which figures: main (fig1 … fig5), appendix, all (both), or by name: fig1, fig2, fig3, fig4, fig5,
    appendix-portraits, appendix-depth, appendix-budgets, appendix-spectra, appendix-catapults, appendix-silent,
    appendix-agreement, appendix-kernels, appendix-consistency, appendix-collapse, appendix-sizes, appendix-optimizers,
    appendix-degree, appendix-edge."""
    scale: Literal["quick", "full"] = "quick"
    """quick: minutes on two cores. full: wider, longer, more seeds; for a GPU, or a night."""
    campaign: Path | None = None
    """Folder of campaigns (exponents.csv, degrees.csv in it or below it) that appendix-degree, appendix-edge and claims
    about every architecture are drawn from; the committed ones when not given."""
    first_seed: int = 0
    """Seed of the first networks and data; another one repeats everything on unseen ones."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, mps; several with commas between them (cuda:0,cuda:1), or cuda:all."""
    workers: int | None = None
    """Processes that train, one thread each; when not given, as many as cores, or one for each GPU."""

    def run(self) -> None:
        """Compute what is missing, then draw, judge and write."""
        from empirical.experiments.appendix import AppendixExperiments
        from empirical.experiments.lab import Lab
        from empirical.experiments.scales import SCALES
        from empirical.progress import ProgressBar
        from empirical.runners import available_cores, device_list, runner_on
        from empirical.store import RunDirectory
        from paper_figures.claims.tables import RESULTS
        from paper_figures.figures import chosen_figures, render
        from paper_figures.ledger import VERDICTS

        campaign = self.campaign or RESULTS
        names = chosen_figures(self.names, campaign=campaign)
        kind, _ = device_list(self.device)
        scale = SCALES[self.scale].from_seed(self.first_seed).on(kind)
        store = RunDirectory(self.out, scale.describe())
        with runner_on(self.device, self.workers) as runner, ProgressBar() as progress:
            experiments = AppendixExperiments(scale, Lab(store, runner, progress))
            # a process more takes seconds to start, as long as a few figures take to draw
            apart = available_cores() > 1 and len(names) > 4
            rendered = render(names, experiments, store, campaign, apart)
        for name, seconds in rendered.seconds.items():
            print(f"{name}: {seconds:.0f} s")
        counts = rendered.ledger["verdict"].value_counts()
        print("claims: " + ", ".join(f"{int(counts.get(verdict, 0))} {verdict}" for verdict in VERDICTS))
        print(f"written to {store.path}: " + ", ".join(path.name for path in rendered.files))


Command = (
    Annotated[Derive, tyro.conf.subcommand("derive")]
    | Annotated[Simulate, tyro.conf.subcommand("simulate")]
    | Annotated[SweepCommand, tyro.conf.subcommand("sweep")]
    | Annotated[TraceCommand, tyro.conf.subcommand("trace")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
)


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, by which batch systems end a job: as Ctrl-C, it leaves a run that can go on."""


@contextmanager
def _termination() -> Iterator[None]:
    """Turn SIGTERM into an exception while a command runs."""

    def terminate(*_: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2, an interrupt in 130, SIGTERM in 143."""
    command = tyro.cli(Command, prog="richscape", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    try:
        for name in WINGS:
            _check_origin(name)
    except ImportError as error:
        print(f"richscape: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from theory.errors import InputError

    try:
        with _termination():
            command.run()
    except InputError as error:
        print(f"richscape: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        kept, terminated = getattr(command, "out", None), isinstance(interrupt, _TerminatedError)
        tail = f" What is done is kept in {kept}; the same command goes on from there." if kept else ""
        print(f"richscape: {'terminated' if terminated else 'interrupted'}.{tail}", file=sys.stderr)
        raise SystemExit(143 if terminated else 130) from None  # 128 + the signal, as shells have it


if __name__ == "__main__":
    main()
