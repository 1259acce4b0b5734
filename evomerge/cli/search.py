"""evomerge search."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
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
    warn_of_trust,
)
from evomerge.cli._findings import show_findings
from evomerge.cli._gate import FailUnlessBetter, pass_gate
from evomerge.cli._signals import STOPPED, handling, name_of

if TYPE_CHECKING:
    from evomerge.runs.experiment import Experiment
    from evomerge.runs.run import Found, Run

__all__ = ["command"]


def command(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Candidates of all runs together; a larger number continues a finished study."
        ),
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
    warm_start: Annotated[
        str | None,
        typer.Option(help="A study whose best points are the first candidates: folder, name or URL#NAME."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")
    ] = False,
    fail_unless_better: FailUnlessBetter = None,
) -> None:
    """Search for the best merge; continues an earlier run of the same study."""
    from evomerge.runs.experiment import Experiment
    from evomerge.runs.run import Run

    overrides: dict[str, Any] = {
        "search.trials": trials,
        "name": study,
        "storage": storage,
        "search.seed": seed,
        "search.warm_start": warm_start,
        "output.dir": None if out is None else str(out),
        "workers.count": workers,
        "workers.backend": None if workers is None else ("ray" if workers > 1 else "inline"),
    }
    loaded = Experiment.load(experiment, {k: v for k, v in overrides.items() if v is not None})
    warn_of_trust(loaded.fitness)
    found = _Search(Run(loaded), quiet=json_).run()
    pass_gate(lambda: found.verdict, fail_unless_better)


class _Search:
    """One call of the command: shows progress, and ends the search cleanly on Ctrl-C."""

    def __init__(self, run: Run, *, quiet: bool) -> None:
        self._run = run
        self._quiet = quiet
        self._stop_asked = False
        self._searching = False

    def run(self) -> Found:
        from evomerge.cli._progress import LiveProgress
        from evomerge.search.controller import Ending
        from evomerge.search.stream import DriftError

        with self._interruptible():
            for warning in self._run.prepare():
                warn(warning)
            with LiveProgress(self._run.experiment, quiet=self._quiet, on_search=self._begun) as progress:
                try:
                    found = self._run.search(observers=[progress], should_stop=lambda: self._stop_asked)
                except DriftError as drift:
                    raise DriftError(drift.where, drift.reason, self._successor(drift.hint)) from None
            self._searching = False
            if found.ending is Ending.STOPPED:
                self._say_how_to_go_on("Stopped; nothing is lost.")
                raise typer.Exit(STOPPED)
            self._report(found)
            return found

    def _successor(self, hint: str) -> str:
        """``hint`` with the command that starts a successor of this study."""
        from evomerge.study.storage import redact

        experiment = self._run.experiment
        old = f"{redact(experiment.storage)}#{experiment.name}"
        new = ["--study", f"{experiment.name}-2", "--warm-start", old]
        return f"{hint} The command:\n  {command_line(('--study', '--warm-start'), new)}"

    def _begun(self) -> None:
        self._searching = True

    def _report(self, found: Found) -> None:
        from evomerge.report.tables import study_document
        from evomerge.search.controller import Ending

        if self._quiet:
            with self._run.study() as opened:
                print_json(study_document(opened.study, found.leaderboard, found.verdict, found.agreement))
            return
        console.print()
        title = f"{self._run.experiment.name}: {found.candidates} candidates"
        console.print(leaderboard_table(found.leaderboard, title))
        show_findings(found.verdict, found.agreement)
        if found.ending is Ending.CONVERGED:
            console.print("The search converged before its budget was spent.")
        _next_steps(self._run.experiment)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the search after the running candidate, the second at once.

        Where no candidate is running (while models are opened, for example), the first ends it at once as
        well.
        """

        def ask(number: int, _: object) -> None:
            if self._stop_asked or not self._searching:
                raise KeyboardInterrupt
            self._stop_asked = True
            if not self._quiet:
                say(
                    f"\n{name_of(number)}: finishing the running candidate; "
                    "a second signal stops at once, and only that candidate is lost."
                )

        with handling(ask):
            try:
                yield
            except KeyboardInterrupt:
                self._say_how_to_go_on("Stopped; every finished trial is kept.")
                raise typer.Exit(STOPPED) from None

    def _say_how_to_go_on(self, text: str) -> None:
        """Print ``text`` and the command line, on standard error where standard output is a document."""
        (tell if self._quiet else console.print)(f"\n{text} Continue with:\n  {command_line()}")


def _next_steps(experiment: Experiment) -> None:
    from evomerge.study.storage import redact

    study = shlex.quote(short(experiment.folder))
    best = shlex.quote(short(experiment.folder / "best.yml"))
    url = experiment.spec.storage
    extra = "" if url is None else f" --storage {shlex.quote(redact(url))}"
    console.print(
        f"\nNext:\n  {program()} export {study}{extra} -o {best}\n  {program()} merge {best} OUT_DIR",
    )
