"""The commands. Each reads its arguments, calls the library and prints."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from hiercnn.cli._hierarchy import hierarchy
from hiercnn.cli._recipes import recipes
from hiercnn.errors import Interrupted


class _Commands(TyperGroup):
    """Ctrl-C that nobody caught becomes an error of ours; typer would leave without a word."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped at once; nothing was saved since the last checkpoint", signal.SIGINT) from stop


app = typer.Typer(
    cls=_Commands,
    help="Train image classifiers that know their class hierarchy, beside a flat twin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(hierarchy, name="hierarchy")
app.add_typer(recipes, name="recipes")

Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, such as optim.lr=0.05 model.heads.0.weight=0.5.")]
Trust = Annotated[bool, typer.Option("--trust-imports", help="Allow the recipe's imports: to run their code.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Options of every command."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one: quickstart/branches.")],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/<name of the recipe>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be trained, train nothing.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Tell where the time of a step goes; a trace in the run folder.")] = False,
    quiet: Quiet = False,
    trust_imports: Trust = False,
) -> None:
    """Train one recipe into a run folder; with torchrun in several processes: torchrun --nproc-per-node 4 -m hiercnn train …."""
    from hiercnn.recipe import fit, load_recipe
    from hiercnn.train import process_number

    wanted = _with_display(overrides, quiet)
    if dry_run:
        from hiercnn.cli._dry_run import print_plan

        print_plan(load_recipe(recipe, wanted, trust_imports=trust_imports))
        return
    run = fit(recipe, overrides=wanted, run_dir=run_dir, resume=resume, trust_imports=trust_imports, profile=profile)
    if not quiet and not process_number():
        _print_end(run)


@app.command()
def compare(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files or shipped names; key=value overrides apply to all of them.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; five or more for a claim.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of compare.json, .md and .csv.")] = Path("runs/compare"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once; they share the cores.")] = 1,
    baseline: Annotated[str | None, typer.Option(help="Name of the baseline. Default: the first recipe without heads.")] = None,
    budgets: Annotated[str | None, typer.Option(help="Also train shorter, complete schedules: shares such as 0.4,0.6,0.8.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, as HTML, SVG and PNG.")] = None,
    quiet: Quiet = False,
    trust_imports: Trust = False,
) -> None:
    """Train recipes over seeds (finished runs are reused) and print them side by side."""
    from hiercnn.compare import compare as run_comparison
    from hiercnn.compare import table
    from hiercnn.pictures import make_folder
    from hiercnn.train import process_number

    quiet = quiet or process_number() > 0
    names = [text for text in recipes if "=" not in text or Path(text).exists()]
    overrides = _with_display([text for text in recipes if text not in names], quiet)
    console = _console()
    tell = (lambda text: None) if quiet else (lambda text: console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True))
    if figures is not None:
        make_folder(figures)  # before hours of training
    result = run_comparison(
        names,
        seeds=seeds,
        out=out,
        baseline=baseline,
        budgets=_shares(budgets),
        jobs=jobs,
        overrides=overrides,
        trust_imports=trust_imports,
        tell=tell,
    )
    if process_number():
        return
    console.print(table(result))
    if not quiet:
        console.print(f"written to {out / 'compare.json'}, compare.md and compare.csv", markup=False, highlight=False, soft_wrap=True)
    if figures is not None:
        from hiercnn.compare import figures as drawn

        _save_pictures(drawn(result), figures, console)


@app.command()
def cluster(
    run: Annotated[Path, typer.Argument(help="A run folder with weights: runs/cifar100-flat.")],
    source: Annotated[str, typer.Option(help="features, weights, logits or confusion.")] = "features",
    linkage: Annotated[str, typer.Option(help="average, complete, ward or single.")] = "average",
    metric: Annotated[str | None, typer.Option(help="Of features and weights: cosine (default), correlation, euclidean or unit.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="Of features: early, middle, late or a number. Default: what the classifier reads.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Images to look at: train or val. Default: train for features, else val.")] = None,
    weights: Annotated[str, typer.Option(help="last, best or step-….")] = "last",
    groups: Annotated[str | None, typer.Option(help="Numbers of groups of the tree: 8,20. Default: every merge.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the tree as JSON, for hierarchy.file of a recipe.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Draw the dendrogram: .html, .svg or .png.")] = None,
    trust_imports: Trust = False,
) -> None:
    """Cluster the classes of a run by what its network makes of them, and compare with the run's own tree."""
    from hiercnn.cli._cluster import print_clusters
    from hiercnn.recipe import Run

    options = {"linkage": linkage, "metric": metric, "stage": int(stage) if stage and stage.isdecimal() else stage}
    print_clusters(
        Run(run, trust_imports=trust_imports), source, options | {"split": split, "weights": weights}, _counts(groups), out, draw
    )


@app.command()
def dynamics(
    run: Annotated[Path, typer.Argument(help="A run folder that was trained with checkpoints.keep=log, or with dynamics={}.")],
    images: Annotated[int, typer.Option(min=1, help="Images of train, and of test, to look at.")] = 2000,
    random: Annotated[
        int | None, typer.Option(min=0, help="Random partitions of the same group sizes beside each cut. Default: the recipe's, or 20.")
    ] = None,
    probes: Annotated[bool, typer.Option("--probes/--no-probes", help="Fit linear probes, which takes most of the time.")] = True,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, as HTML, SVG and PNG.")] = None,
    trust_imports: Trust = False,
) -> None:
    """Measure what a run learnt when and where, from the weights it has kept; a second call goes on where the first was stopped."""
    from hiercnn.cli._dynamics import print_dynamics
    from hiercnn.pictures import make_folder
    from hiercnn.recipe import Run

    if figures is not None:
        make_folder(figures)  # before minutes of measuring
    found = print_dynamics(Run(run, trust_imports=trust_imports), images=images, random=random, probes=probes)
    if figures is not None:
        from hiercnn.dynamics import figures as drawn

        _save_pictures(drawn(found.story), figures, _console())


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A finished run folder with weights: runs/cifar100-flat.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Judge train: train so many networks, each without a part of it, or reuse those there.")
    ] = None,
    side: Annotated[str | None, typer.Option(help="test, val, or train (with --folds). Default: test, or val if there is none.")] = None,
    detector: Annotated[list[str] | None, typer.Option(help="A detector, such as mislabel; may be repeated. Default: all.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Suspicions of each detector to print; files hold all.")] = 10,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Folder for the CSV files. Default: diagnose/ in the run folder.")] = None,
    weights: Annotated[str, typer.Option(help="last, best, average or step-…; folds are judged with their last.")] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    trust_imports: Trust = False,
) -> None:
    """Find faults in data and labels: wrong labels, classes that are one or two, misplaced ones, images in two splits."""
    from hiercnn.cli._diagnose import FORMATS, print_diagnosis
    from hiercnn.errors import RecipeError
    from hiercnn.recipe import Run

    if form not in FORMATS:
        raise RecipeError(f"--format: wanted {', '.join(FORMATS)}, got '{form}'")
    options = {"side": side, "folds": folds, "weights": weights, "out": out, "device": device}
    print_diagnosis(Run(run, trust_imports=trust_imports), detector, form, top, **options)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them: runs/compare.")],
    out: Annotated[Path, typer.Option(help="The page. A report that is there already is replaced.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="Folder for every figure, as SVG, PNG and CSV.")] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Images of train on which responses of layers are measured, unless dynamics has; 0 for none.")
    ] = 2000,
    thumbnails: Annotated[int, typer.Option(min=0, help="Pictures of images on the page, at most.")] = 4000,
    quiet: Quiet = False,
    trust_imports: Trust = False,
) -> None:
    """Make one page of a run, or of several: overview, linked views of the errors, learning, faults; it needs no network."""
    from hiercnn.cli._report import print_report

    print_report(runs, out, figures=figures, images=images, thumbnails=thumbnails, quiet=quiet, trust_imports=trust_imports)


@app.command()
def predict(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, a folder of `hiercnn export`, or an ImageNet model of timm: resnet50.")
    ],
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    rule: Annotated[
        str | None,
        typer.Option(help="argmax, threshold, climbing, top_down, crm, hie or auto. Default: the recipe's (auto); climbing for timm's."),
    ] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="An option of the rule: --set threshold=0.7.")] = None,
    level: Annotated[
        str | None, typer.Option(help="Answer for groups, 20 or '20 groups', from a head's stage: the rest is not computed.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest share of the network's cost: its latest head answers.")
    ] = None,
    early_loss: Annotated[
        float | None, typer.Option(help="Only images of which the head is sure leave early: at most this share becomes wrong by it.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, jsonl or csv.")] = "table",
    weights: Annotated[
        str | None,
        typer.Option(help="Of a run: last (default), best, average or step-…. Of a timm model: timm (default), a file, or package:NAME."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once. Default: the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images. Default: the recipe's.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Larger files are not opened. Default: 179 million.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    trust_imports: Trust = False,
) -> None:
    """Answer for images: as deep in the tree as the rule dares, with the probability of every node on the path, and why."""
    from hiercnn.cli._predict import FORMATS, predictor_of, print_predictions
    from hiercnn.errors import RecipeError

    if form not in FORMATS:
        raise RecipeError(f"--format: wanted {', '.join(FORMATS)}, got '{form}'")
    asked = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
    given = {name: value for name, value in asked.items() if value is not None}
    early = {name: value for name, value in {"level": level, "budget": budget, "loss": early_loss}.items() if value is not None}
    loading = {"weights": weights, "device": device, "trust_imports": trust_imports, **given}
    predictor = predictor_of(source, rule, _values(options), early=early, **loading)
    raise typer.Exit(print_predictions(predictor, paths, form))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder: runs/grocery-branches.")],
    form: Annotated[str, typer.Option("--format", help="timm (weights), torch (torch.export) or onnx.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    heads: Annotated[str, typer.Option(help="strip, or keep: the heads' logits beside the leaf's.")] = "strip",
    level: Annotated[str | None, typer.Option(help="End the network at the head that answers for these groups: 20 or '20 groups'.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, max=1, help="End it at the latest head within this share of its cost.")] = None,
    rule: Annotated[str | None, typer.Option(help="The decision rule that goes with it. Default: the recipe's (auto).")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="An option of the rule: --set target=0.9.")] = None,
    weights: Annotated[str, typer.Option(help="last, best or average.")] = "last",
    trust_imports: Trust = False,
) -> None:
    """Write a run's network, preprocessing, tree and decision rule for use without the run, and check that the answers are the same."""
    from hiercnn.cli._export import print_export
    from hiercnn.recipe import Run, export_run

    asked = {"heads": heads, "level": level, "budget": budget, "rule": rule, "options": _values(options), "weights": weights}
    print_export(export_run(Run(run, trust_imports=trust_imports), form, out, **asked), form)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="A finished run folder: runs/cifar100-branches.")],
    folder: Annotated[Path | None, typer.Option(help="A new or empty folder, which timm loads as local-dir:FOLDER.")] = None,
    to: Annotated[str | None, typer.Option(help="USER/NAME on the Hugging Face hub, which timm loads as hf-hub:USER/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository of the hub private.")] = False,
    weights: Annotated[str, typer.Option(help="last, best or average.")] = "last",
    trust_imports: Trust = False,
) -> None:
    """Store a run's classifier, heads stripped, as a model that timm loads: in a folder or on the Hugging Face hub."""
    from hiercnn.recipe import Run, push_run

    name = push_run(Run(run, trust_imports=trust_imports), folder=folder, to=to, private=private, weights=weights)
    typer.echo(f'timm.create_model("{name}", pretrained=True)')


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="A name, a part of names, or a pattern: 'convnext*nano*'. Default: all.")] = "*",
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images. Default: what timm states for the model.")] = None,
) -> None:
    """List timm's backbones by name; with few of them, their stages, where heads can sit."""
    from hiercnn.cli._models import print_models

    print_models(pattern, size)


@app.command()
def doctor() -> None:
    """Tell versions, devices, data sets and WordNet found on this machine."""
    from hiercnn.cli._doctor import print_findings

    print_findings()


def _console():
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)  # a pipe has no width to keep to


def _save_pictures(drawn: dict, folder: Path, console) -> None:
    from hiercnn.pictures import save_pictures

    saved = save_pictures(drawn, folder)
    console.print(f"{len(saved.paths)} files of figures in {folder}", markup=False, highlight=False, soft_wrap=True)
    if saved.left_out is not None:
        console.print(saved.left_out, markup=False, highlight=False, soft_wrap=True)


def _values(options: list[str] | None) -> dict[str, object]:
    """OPTION=VALUE texts as options, values as YAML has them."""
    from hiercnn.errors import RecipeError
    from hiercnn.recipe import read_text

    wrong = [text for text in options or [] if "=" not in text]
    if wrong:
        raise RecipeError(f"--set: wanted OPTION=VALUE, got '{wrong[0]}'")
    return {key: read_text(value, f"--set {key}") for key, _, value in (text.partition("=") for text in options or [])}


def _counts(text: str | None) -> list[int] | None:
    from hiercnn.errors import RecipeError

    try:
        return [int(count) for count in text.split(",")] if text else None
    except ValueError:
        raise RecipeError(f"--groups: wanted numbers of groups such as 8,20, got '{text}'") from None


def _shares(text: str | None) -> list[float]:
    from hiercnn.errors import RecipeError

    try:
        return [float(share) for share in text.split(",")] if text else []
    except ValueError:
        raise RecipeError(f"--budgets: wanted shares of the epochs such as 0.4,0.6,0.8, got '{text}'") from None


def _with_display(overrides: list[str] | None, quiet: bool) -> list[str]:
    return [*(overrides or []), *(["logging.display=quiet"] if quiet else [])]


def _print_end(run) -> None:
    from rich.console import Console

    end = run.end
    split = "test" if "test" in end else "val"
    accuracy = ", ".join(f"{level} {100 * value:.1f} %" for level, value in end[split]["accuracy"].items())
    seconds = end["seconds"]["train"] + end["seconds"]["eval"]
    Console().print(f"{split} accuracy: {accuracy}  ({seconds:.0f} s)\nrun folder: {run.path}", highlight=False, soft_wrap=True)
