"""`search` and `merge`: the front of latency, error and size, and one of its points as a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import Bars, show

if TYPE_CHECKING:
    from edgeprune.records.search import SearchRecord
    from edgeprune.search.begin import Wishes

DEFAULT_TRIALS = 100

what_options = options.together(
    click.option(
        "--minimize",
        multiple=True,
        metavar="QUANTITIES",
        help="What is made small, with commas: latency, error, size, params, macs, memory, p95, "
        "disagreement [default: latency,error].",
    ),
    click.option(
        "--constraint",
        multiple=True,
        metavar="CONDITION",
        help="What must hold, as certified_error<=0.5 or latency@cpu<=8ms; repeatable.",
    ),
    click.option(
        "--error",
        type=click.Choice(["certified", "statistical", "observed"]),
        default="observed",
        show_default=True,
        help="What the word error stands for.",
    ),
    click.option(
        "--pick",
        default="",
        metavar="CONDITIONS",
        help='The point of the front to make a run of, as "latency<=8ms".',
    ),
    click.option(
        "--methods",
        multiple=True,
        metavar="NAMES",
        help="Methods to try, with commas [default: --method, or gram and gram-forward].",
    ),
    click.option(
        "--trials",
        type=int,
        default=DEFAULT_TRIALS,
        show_default=True,
        metavar="N",
        help="Trials, of all calls together.",
    ),
    click.option(
        "--time", type=options.Duration(), metavar="TIME", help="Begin no trial after 2h, 90m or 1h30m."
    ),
    click.option(
        "--sampler",
        type=click.Choice(["tpe", "nsga2", "nsga3", "gp", "random"]),
        default="tpe",
        show_default=True,
        help="Of Optuna.",
    ),
)

where_options = options.together(
    click.option(
        "--workers",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Processes here that make nets; 0 makes them in this one.",
    ),
    click.option(
        "--cluster",
        default="",
        metavar="URL",
        help="Run on a Dask cluster: tcp://HOST:PORT of its scheduler.",
    ),
    click.option(
        "--units",
        multiple=True,
        metavar="TARGET=N",
        help="How many equal devices of a target there are here; repeatable.",
    ),
    click.option(
        "--cool-down",
        type=float,
        default=0.0,
        show_default=True,
        metavar="S",
        help="Pause between measurements on a device.",
    ),
    click.option(
        "--retries",
        type=int,
        default=2,
        show_default=True,
        metavar="N",
        help="Of a task whose worker or device died.",
    ),
    click.option(
        "--storage",
        default="",
        metavar="URL",
        help="Where the study is kept: postgresql://… or grpc://HOST:PORT [default: a journal file].",
    ),
    click.option(
        "--study", default="edgeprune", show_default=True, metavar="NAME", help="Its name in the storage."
    ),
    click.option(
        "--shard",
        default="",
        metavar="I/N",
        help="Do the I-th of N parts; `edgeprune merge` puts them together.",
    ),
)


@click.command()
@options.model_argument
@options.model_options
@options.prune_options
@options.export_options
@options.target_option
@options.latency_option
@options.certify_options
@what_options
@where_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The search's folder; what lies there is gone on with.",
)
def search(model: str | None, output: Path, **values: Any) -> int:
    r"""Look for the front of latency, error and size of a MODEL on its targets.

    Trials differ in budget, weights of the families of layers, price, method and order. A trial is given up
    as soon as a bound says that it breaks a constraint; a device is asked last.

    \b
      edgeprune search model.py:build --target cpu --minimize latency,error --trials 200 -o search/x
      edgeprune search model.py:build --constraint "certified_error<=0.5" --time 2h -o search/x
      edgeprune search model.py:build --pick "latency<=8ms" -o search/x
      edgeprune search model.py:build --cluster tcp://farm:8786 --target pixel8 -o search/x
    """
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.search.begin import demand, settled

    demand()
    given = options.given(values)
    wishes = _wishes(values)
    loaded, resolved = loaded_and_resolved(model, values)
    resolved = settled(resolved, tuple(given))

    from edgeprune.cli.search_view import View
    from edgeprune.report.terminal import overview
    from edgeprune.search.search import conducted, made_run, opened, taken

    with (
        opened(loaded, resolved, wishes, output, _unseen, Bars(), "method" in given) as found,
        View() as view,
    ):
        found.conductor.watch = view
        record = conducted(found)
        view.close()
        _tell(record, output)
        if found.chosen is None:
            click.echo('\nnext     give the same command with --pick "latency<=0.8" to make a run of a point')
            return 0
        front = [found.conductor.desk.best[number] for number in record.front]
        trial = taken(front, found.chosen, record.targets)
        click.echo(f"\nchosen   trial {trial.number}: {found.chosen.text}")
        result = made_run(found, trial, Bars())
    show(overview(result))
    click.echo(f"\nrun      {output / 'chosen'}\nmodel    {output / 'chosen' / 'pruned.onnx'}")
    return 0


def _unseen(_: object) -> None:
    return None


def _wishes(values: dict[str, Any]) -> Wishes:
    from edgeprune.search.begin import Wishes, shard_of

    return Wishes(
        minimize=tuple(values["minimize"]) or ("latency,error",),
        constraints=tuple(values["constraint"]),
        pick=values["pick"],
        error=values["error"],
        trials=values["trials"],
        seconds=values["time"],
        methods=tuple(values["methods"]),
        sampler=values["sampler"],
        storage=values["storage"],
        study=values["study"],
        cluster=values["cluster"],
        workers=values["workers"],
        units=tuple(values["units"]),
        cool_down_s=values["cool_down"],
        retries=values["retries"],
        shard=shard_of(values["shard"]),
    )


def _tell(record: SearchRecord, folder: Path) -> None:
    from edgeprune.cli.search_view import front_table

    show(front_table(record))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(record.counts.items()))
    click.echo(f"\ntrials   {counts}\nreport   {folder / 'search.html'}")


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SEARCH…")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder of the whole.",
)
def merge(shards: tuple[Path, ...], output: Path) -> int:
    r"""Put the parts of a search that was split with --shard together.

    The same `edgeprune search` command with -o of the whole goes on from there, or takes a point with --pick.

    \b
      edgeprune search model.py:build --shard 1/2 -o part1     # one job of a CI matrix
      edgeprune search model.py:build --shard 2/2 -o part2     # another
      edgeprune merge part1 part2 -o whole
    """
    from edgeprune.search.begin import demand

    demand()
    from edgeprune.search.merge import merged

    record = merged(shards, output)
    _tell(record, output)
    return 0
