"""The commands. Each is a few lines over the packages; nothing is decided here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sovereign import __version__
from sovereign.cli.console import Board, lines, say, write_json
from sovereign.cli.lake_app import lake_app
from sovereign.cli.options import JsonOption, LocalOption, ProfileArgument, SiteOption
from sovereign.cli.sites import find_profile, peek, site_of

app = typer.Typer(
    name="sovereign",
    help="From one profile file to a running platform and a trained, evaluated and served base model of one's own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sovereign {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From one profile file to a running platform and a trained, evaluated and served base model of one's own."""


@app.command("version")
def show_version(as_json: JsonOption = False) -> None:
    """Print the versions of the kit, its runtime and the upstream programs."""
    from sovereign.cli.platform import versions

    found = versions()
    if as_json:
        write_json(found)
    else:
        texts = {name: value for name, value in {**found, **found["programs"]}.items() if isinstance(value, str)}
        lines(f"sovereign {texts.pop('version')}", list(texts.items()))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new site's folder.")],
    profile: Annotated[Path, typer.Option(help="Profile to start from.")] = Path("demo"),
) -> None:
    """Make a site: profile, overlays, state and a passphrase in one folder."""
    from sovereign.profile import EmbeddedTarget, load_profile
    from sovereign.site import init_site

    source = find_profile(profile)
    if isinstance(load_profile(source).target, EmbeddedTarget):
        from stacks.node.spec import check_path

        check_path("DIR", folder.resolve())
    site = init_site(folder, source)
    say(f"site {site.root}: edit {site.profile_path}, then run `sovereign up {folder}`")


@app.command("plan")
def show_plan(profile: ProfileArgument, as_json: JsonOption = False) -> None:
    """Say what follows from a profile: model, recipe, time, energy, cost. Changes nothing."""
    from sovereign.cli.summary import plan_rows
    from sovereign.plan import plan

    resolved = plan(peek(profile)[1])
    if as_json:
        write_json(resolved.model_dump())
    else:
        lines(f"Plan of {resolved.profile}", plan_rows(resolved))


@app.command()
def up(
    profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """The whole way: deploy, corpus, train, evaluate, register, serve, ask. Run again, it changes only what differs."""
    from sovereign.cli.up import run_up

    summary = run_up(site_of(profile, site_dir), local=local)
    if as_json:
        write_json(summary.model_dump())


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="corpus, curate, tokenize, train, evaluate or register.")],
    profile: ProfileArgument,
    site_dir: SiteOption = None,
    local: LocalOption = False,
) -> None:
    """Run one stage and those that it needs."""
    from sovereign.cli.work import run_until

    run_until(site_of(profile, site_dir), name, local=local)


@app.command()
def train(
    profile: ProfileArgument,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Continue from this model: a folder, models:/NAME@ALIAS or a digest."
        ),
    ] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Check the numerics first; exit code 4, without training, if one fails.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The checks of --preflight as JSON on stdout.")] = False,
    slurm: Annotated[
        bool,
        typer.Option("--slurm", help="Run the stages before it here, and print its sbatch script."),
    ] = False,
) -> None:
    """Train, after the stages that training needs, and follow it to its end. Goes on from the last checkpoint."""
    from sovereign.cli.preflight import run_preflight
    from sovereign.cli.work import run_until, slurm_script

    site = site_of(profile, site_dir, base=base)
    if preflight and not run_preflight(site, local=local, as_json=as_json):
        raise typer.Exit(4)
    if slurm:
        sys.stdout.write(slurm_script(site))
    else:
        run_until(site, "train", local=local)


@app.command()
def ledger(
    profile: ProfileArgument,
    step: Annotated[int | None, typer.Option(min=0, help="The documents of this step; default: totals.")] = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Whose text the trained model saw: tokens by owner and language, or the documents of one step."""
    from sovereign.cli.work import show_ledger

    show_ledger(site_of(profile, site_dir), step, local=local, as_json=as_json)


@app.command()
def logs(
    profile: ProfileArgument,
    name: Annotated[str, typer.Argument(metavar="STAGE", help="Which stage.")] = "train",
    site_dir: SiteOption = None,
    local: LocalOption = False,
) -> None:
    """Print what the last run of a stage wrote."""
    from sovereign.cli.work import write_local_log, write_logs

    write = write_local_log if local else write_logs
    write(site_of(profile, site_dir), name, sys.stdout)


@app.command()
def stop(profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False) -> None:
    """Stop training after it has written a checkpoint."""
    from sovereign.cli.work import stop_local_training, stop_training

    (stop_local_training if local else stop_training)(site_of(profile, site_dir))


@app.command()
def resume(profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False) -> None:
    """Resume stopped training from its checkpoint, and follow it."""
    from sovereign.cli.work import run_until

    run_until(site_of(profile, site_dir), "train", local=local)


@app.command()
def ask(
    profile: ProfileArgument,
    question: Annotated[str, typer.Argument(help="A question.")],
    site_dir: SiteOption = None,
) -> None:
    """Ask the served model a question."""
    from sovereign.cli.console import visible_lines
    from sovereign.cli.work import ask_model

    sys.stdout.write(visible_lines(ask_model(site_of(profile, site_dir), question)) + "\n")


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="PROFILE|MODELFOLDER", help="Whose registered model, or a folder with a model.")
    ],
    kind: Annotated[str, typer.Option("--format", help="gguf-f32, gguf-f16, gguf-q8_0 or gguf-q4_k.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one file for llama.cpp and what is built on it; compare it with its source."""
    from sovereign.cli.export import run_export

    run_export(source, kind, out, site_dir=site_dir, local=local, as_json=as_json)


@app.command()
def prune(
    profile: ProfileArgument,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; default: only list them.")] = False,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete files of registered models that no version in MLflow names any more."""
    from sovereign.cli.prune import run_prune

    run_prune(site_of(profile, site_dir), delete=delete, local=local, as_json=as_json)


StackOption = Annotated[list[str] | None, typer.Option("--stack", help="cluster, datalake or serving; default all.")]
AdoptOption = Annotated[bool, typer.Option("--adopt", help="Take over objects that another site deployed.")]


@app.command()
def preview(
    profile: ProfileArgument,
    site_dir: SiteOption = None,
    stack: StackOption = None,
    adopt: AdoptOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a deploy would do; works before the cluster exists."""
    from sovereign.cli.platform import run_preview

    run_preview(site_of(profile, site_dir), stack, adopt=adopt, as_json=as_json)


@app.command()
def deploy(
    profile: ProfileArgument,
    site_dir: SiteOption = None,
    stack: StackOption = None,
    adopt: AdoptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the stacks to what profile and overlays say."""
    from sovereign.cli.platform import run_deploy

    run_deploy(site_of(profile, site_dir), stack, adopt=adopt, as_json=as_json)


@app.command()
def status(
    profile: ProfileArgument, site_dir: SiteOption = None, stack: StackOption = None, as_json: JsonOption = False
) -> None:
    """Compare every managed object with the live one; exit code 3 when anything differs."""
    from sovereign.cli.platform import run_status

    if not run_status(site_of(profile, site_dir), stack, as_json=as_json):
        raise typer.Exit(3)


@app.command()
def destroy(
    profile: ProfileArgument,
    site_dir: SiteOption = None,
    stack: StackOption = None,
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Delete the lake and MLflow's data too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take the stacks away; the machine is as it was before. Data stays without --delete-data."""
    from sovereign.cli.platform import run_destroy

    run_destroy(site_of(profile, site_dir), stack, delete_data=delete_data, as_json=as_json)


@app.command()
def doctor(
    profile: Annotated[Path | None, typer.Argument(metavar="[PROFILE]", help="Also check what it needs.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What is there and what is missing, with a fix for each; exit code 3 when something is missing."""
    from sovereign.cli.platform import run_doctor

    if not run_doctor(profile, as_json=as_json):
        raise typer.Exit(3)


runs_app = typer.Typer(help="Training runs: their numbers, also of those that were replaced.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")

RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="First digits of a run; default the last.")]
RunsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN...]", help="First digits of runs; default all.")
]


@runs_app.command("list")
def runs_list(
    profile: ProfileArgument, site_dir: SiteOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """One line for each run, the last started one first."""
    from sovereign.cli.runs import list_runs

    list_runs(site_of(profile, site_dir), local=local, as_json=as_json)


@runs_app.command("show")
def runs_show(
    profile: ProfileArgument,
    run: RunArgument = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """All numbers of a run as they were last; while it trains too, half a minute late."""
    from sovereign.cli.runs import show_run

    show_run(site_of(profile, site_dir), run, local=local, as_json=as_json)


@runs_app.command("compare")
def runs_compare(
    profile: ProfileArgument,
    runs: RunsArgument = None,
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """What differs in the plans of runs, and their last numbers beside each other."""
    from sovereign.cli.runs import compare_runs

    compare_runs(site_of(profile, site_dir), runs or [], local=local, as_json=as_json)


@runs_app.command("plot")
def runs_plot(
    profile: ProfileArgument,
    runs: RunsArgument = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("plots"),
    site_dir: SiteOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plots as PNG files, and report.html with all of them and their numbers, which needs nothing else."""
    from sovereign.cli.runs import plot_runs

    plot_runs(site_of(profile, site_dir), runs or [], out, local=local, as_json=as_json)


app.add_typer(lake_app, name="lake")


tools_app = typer.Typer(help="Upstream programs: found on PATH or built from pinned sources.", no_args_is_help=True)
app.add_typer(tools_app, name="tools")


@tools_app.command("list")
def tools_list(as_json: JsonOption = False) -> None:
    """Each program with its pinned version and where it was found."""
    from dataclasses import asdict

    from sovereign.tools import list_tools

    statuses = list_tools()
    if as_json:
        write_json([asdict(status) for status in statuses])
    else:
        lines(
            "Tools",
            [(f"{item.name} {item.version}", f"{item.origin} {item.path or ''} {item.detail}") for item in statuses],
        )


@tools_app.command("build")
def tools_build() -> None:
    """Install the distribution's packages and build what is not on PATH."""
    from sovereign.cli.platform import prepare_machine

    with Board() as board:
        prepare_machine(board)
    say("all programs are there")
