"""evomerge search."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli._console import (
    command_line,
    console,
    leaderboard_table,
    print_json,
    program,
    say,
    short,
    tell,
    warn,
)
from evomerge.cli._preflight import announce, preflight
from evomerge.cli._progress import LiveProgress
from evomerge.cli._signals import STOPPED, handling, name_of
from evomerge.cli._studies import write_run_file

if TYPE_CHECKING:
    from evomerge.fitness.scored import ScoredDigest
    from evomerge.search.experiment import Experiment
    from evomerge.study.study import Study
    from evomerge.workers.executor import Executor

__all__ = ["command"]


def command(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates of all runs together; more than before goes on.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study; the experiment's if not given.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="URL of the storage: sqlite:///..., postgresql+psycopg://..., journal:///..."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; more than one means Ray.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the search.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    accept_drift: Annotated[
        bool,
        typer.Option(
            "--accept-drift",
            help="Go on although other versions of the libraries no longer propose what the study recorded.",
        ),
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")
    ] = False,
) -> None:
    """Search for the best merge; goes on where an earlier run of the same study ended."""
    from evomerge.search.experiment import Experiment

    overrides: dict[str, Any] = {
        "search.trials": trials,
        "name": study,
        "storage": storage,
        "search.seed": seed,
        "output.dir": None if out is None else str(out),
        "workers.count": workers,
        "workers.backend": None if workers is None else ("ray" if workers > 1 else "inline"),
    }
    loaded = Experiment.load(experiment, {k: v for k, v in overrides.items() if v is not None})
    announce(loaded.fitness)
    _Run(loaded, quiet=json_, accept_drift=accept_drift).run()


class _Run:
    """One call of the command: opens what the search needs, shows how it goes, and closes it again."""

    def __init__(self, experiment: Experiment, *, quiet: bool, accept_drift: bool) -> None:
        self.experiment = experiment
        self.quiet = quiet
        self.accept_drift = accept_drift
        self.searching = False
        self.stop_asked = False
        self.scored: ScoredDigest | None = None

    def run(self) -> None:
        from evomerge.fitness.objectives import Fitness
        from evomerge.search.controller import Ending, SearchPlan, search
        from evomerge.search.leaderboard import leaderboard

        experiment = self.experiment
        fitness = Fitness(experiment.fitness.tasks)
        plan = SearchPlan(
            space=experiment.space,
            sampler=experiment.sampler(),
            objective=fitness,
            baselines=experiment.baselines(),
            trials=experiment.spec.search.trials,
            top_k=experiment.spec.search.top_k,
            lag=experiment.spec.search.lag,
        )
        with self._interruptible(), self._study() as study, self._executor() as executor:
            self._announce(study)
            self.searching = True
            with LiveProgress(study, fitness, plan.trials, quiet=self.quiet) as progress:
                result = search(
                    plan,
                    study,
                    executor,
                    progress,
                    lambda: self.stop_asked,
                    accept_drift=self.accept_drift,
                )
            self.searching = False
            if result.ending is Ending.STOPPED:
                self._say_how_to_go_on("Stopped; nothing is lost.")
                raise typer.Exit(STOPPED)
            rows = leaderboard(study, fitness, plan.top_k)
            if self.quiet:
                from evomerge.report.tables import study_document

                print_json(study_document(study, rows))
                return
            console.print()
            console.print(leaderboard_table(rows, f"{study.name}: {result.candidates} candidates"))
            if result.ending is Ending.CONVERGED:
                console.print("The search converged before its budget was spent.")
            self._next_steps()

    @contextlib.contextmanager
    def _study(self) -> Iterator[Study]:
        from evomerge.errors import OutputError
        from evomerge.search.experiment import FREE_FIELDS, read_document
        from evomerge.study.study import Study

        experiment = self.experiment
        checked = preflight(experiment)
        for warning in checked.warnings:
            warn(warning)
        self.scored = checked.scored
        try:
            experiment.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exception:
            raise OutputError(
                str(experiment.folder), f"the run's folder cannot be written ({exception.strerror})"
            ) from None
        with Study.open(
            experiment.storage,
            experiment.name,
            document=experiment.document(checked.sources),
            dimensions=experiment.space.dimensions,
            free=FREE_FIELDS,
            scored=checked.scored,
            read=read_document,
        ) as study:
            # Not before: what is there may point to another study.
            write_run_file(experiment.folder, experiment)
            yield study

    @contextlib.contextmanager
    def _executor(self) -> Iterator[Executor]:
        from evomerge.workers.worker import WorkerSpec

        workers = self.experiment.spec.workers
        spec = WorkerSpec(
            models=tuple(self.experiment.references.items()),
            fitness=self.experiment.fitness,
            folder=self.experiment.path.parent.absolute(),
            device=workers.device,
            dtype=workers.dtype,
            threads=workers.threads,
            as_drawn=self.scored is not None and self.scored.as_drawn,
            scored=None if self.scored is None else self.scored.by_task(),
        )
        executor: Executor
        if workers.backend == "inline":
            from evomerge.workers.inline import InlineExecutor

            executor = InlineExecutor(replace(spec, timeout_s=workers.timeout))
        else:
            from evomerge.workers.ray_executor import RayExecutor

            executor = RayExecutor(
                spec,
                workers.count,
                gpus_per_worker=workers.gpus_per_worker,
                address=workers.address,
                timeout_s=workers.timeout,
                retries=workers.retries,
                threads=workers.threads,
            )
        try:
            yield executor
        finally:
            executor.close()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the search after the result in hand, the second at once.

        Where no result is in hand (models are being opened, say), the first ends it at once as well.
        """

        def ask(number: int, _: object) -> None:
            if self.stop_asked or not self.searching:
                raise KeyboardInterrupt
            self.stop_asked = True
            self._say(
                f"\n{name_of(number)}: finishing the candidate in hand; "
                "once more leaves at once and loses only that."
            )

        with handling(ask):
            try:
                yield
            except KeyboardInterrupt:
                self._say_how_to_go_on("Stopped; every finished trial is kept.")
                raise typer.Exit(STOPPED) from None

    def _announce(self, study: Study) -> None:
        from evomerge.report.tables import search_text

        experiment = self.experiment
        done = len(study.candidates())
        if study.resumed:
            total = experiment.spec.search.trials
            how = f"Resuming study {study.name!r}: {done} of {total} candidates are done"
        else:
            how = f"New study {study.name!r}: {experiment.spec.search.trials} candidates"
        self._say(f"{how}, {len(experiment.space.dimensions)} dimensions.")
        self._say(search_text(experiment.spec.search, experiment.space.dimensions))
        if not self.quiet:
            console.print(f"Storage: {study.url}")

    def _next_steps(self) -> None:
        from evomerge.study.storage import redact

        study = shlex.quote(short(self.experiment.folder))
        best = shlex.quote(short(self.experiment.folder / "best.yml"))
        url = self.experiment.spec.storage
        extra = "" if url is None else f" --storage {shlex.quote(redact(url))}"
        console.print(
            f"\nNext:\n  {program()} export {study}{extra} -o {best}\n  {program()} merge {best} OUT_DIR",
        )

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(text)

    def _say_how_to_go_on(self, text: str) -> None:
        """Also where standard output is a document."""
        (tell if self.quiet else console.print)(f"\n{text} Go on with:\n  {command_line()}")
