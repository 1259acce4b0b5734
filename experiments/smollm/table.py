"""Print the tables of README.md from finished searches: python table.py RUN_FOLDER...

Test scores of the baselines and of each search's winner come from the studies. A search has no baseline of
DARE, so DARE with defaults is merged and scored here (a minute). Differences are paired: the bootstrap draws
items, the same for both models, within each task.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evomerge import Experiment, Scores, Worker, WorkerSpec, open_study
from evomerge.fitness.items import ItemSet
from evomerge.fitness.scores import Split
from evomerge.recipe import parse_recipe
from evomerge.runs.opened_study import OpenedStudy
from evomerge.workers.jobs import Job

EXPERIMENT = Path(__file__).parent / "experiment.yml"
RESAMPLES = 10_000
SEED = 0

Array = npt.NDArray[np.float64]


def right(scores: Scores) -> dict[str, Array]:
    """Of each task, the values of its items, in the order of the items' names."""
    return {
        task.task: np.array([item.value for item in sorted(task.items, key=lambda i: i.item)])
        for task in scores.tasks
    }


def interval(values: dict[str, Array]) -> tuple[float, float]:
    """The 95 % interval of the mean over the tasks of the mean over the items."""
    rng = np.random.default_rng(SEED)
    means = [v[rng.integers(0, len(v), (RESAMPLES, len(v)))].mean(axis=1) for v in values.values()]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)


def mean(values: dict[str, Array]) -> float:
    """The score of the experiment: tasks weigh alike."""
    return float(np.mean([v.mean() for v in values.values()]))


def dare() -> Iterator[tuple[str, Scores]]:
    """Both kinds of DARE with the weights and the density of the TIES baseline, on test items."""
    experiment = Experiment.load(EXPERIMENT)
    experts = [name for name in experiment.references if name != "base"]
    models = [{"model": name, "parameters": {"weight": 1.0, "density": 0.5}} for name in experts]
    worker = Worker(
        WorkerSpec(
            tuple(experiment.references.items()), experiment.fitness, experiment.path.parent.absolute()
        )
    )
    for method in ("dare_linear", "dare_ties"):
        recipe = {"merge_method": method, "base_model": "base", "models": models, "dtype": "bfloat16"}
        outcome = worker.run(Job(method, parse_recipe(recipe), ItemSet(Split.TEST)))
        if outcome.scores is None:
            raise SystemExit(f"table.py: {method}: {outcome.failure}")
        yield f"{method}, defaults", outcome.scores
    worker.close()


def tested(studies: list[OpenedStudy]) -> dict[str, dict[str, Array]]:
    """By the model's name, what is right of the test items."""
    found: dict[str, dict[str, Array]] = {}
    for study in studies:
        scores = study.study.split_scores(Split.TEST)
        for baseline in study.study.baselines():
            found[baseline.name] = right(scores[baseline.number])
    found |= {name: right(scores) for name, scores in dare()}
    for study in studies:
        winner = study.winner()
        if winner is None:
            raise SystemExit(f"table.py: {study.name} has not ended")
        found[f"searched, seed {study.search.settings.seed}"] = right(
            study.study.split_scores(Split.TEST)[winner.number]
        )
    return found


def print_scores(found: dict[str, dict[str, Array]]) -> None:
    """Every model's accuracy by task, and the score with its interval."""
    tasks = list(next(iter(found.values())))
    print(f"| model | {' | '.join(tasks)} | mean | 95 % interval |")
    print("|" + "---|" * (len(tasks) + 3))
    for name, values in found.items():
        low, high = interval(values)
        cells = [f"{values[task].mean():.3f}" for task in tasks]
        print(f"| {name} | {' | '.join(cells)} | {mean(values):.3f} | {low:.3f} to {high:.3f} |")


def print_differences(found: dict[str, dict[str, Array]], others: list[str]) -> None:
    """Every search minus every other model, of the score and of each task."""
    tasks = list(next(iter(found.values())))
    print(f"\n| difference | mean | {' | '.join(tasks)} |")
    print("|" + "---|" * (len(tasks) + 2))
    for searched in (name for name in found if name.startswith("searched")):
        for other in others:
            change = {task: found[searched][task] - found[other][task] for task in tasks}
            cells = []
            for part in (change, *({task: change[task]} for task in tasks)):
                low, high = interval(part)
                cells.append(f"{mean(part):+.3f} ({low:+.3f} to {high:+.3f})")
            print(f"| {searched} - {other} | {' | '.join(cells)} |")


def print_costs(studies: list[OpenedStudy]) -> None:
    """What each search took: what was evaluated on search items, and the seconds of merging and scoring."""
    print("\n| search | candidates | item evaluations | merge, s each | scoring, s each | seconds in all |")
    print("|---|---|---|---|---|---|")
    for study in studies:
        trials = [t for t in study.study.trials() if t.cached_from is None]
        candidates = [t for t in trials if t.kind == "candidate"]
        items = sum(t.basis.items or 0 for t in trials)
        merging = float(np.mean([t.seconds.materialize for t in candidates]))
        scoring = float(np.mean([t.seconds.evaluate for t in candidates]))
        total = sum(t.seconds.materialize + t.seconds.evaluate for t in trials)
        print(f"| {study.name} | {len(candidates)} | {items} | {merging:.1f} | {scoring:.1f} | {total:.0f} |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="folders of finished searches")
    studies = [open_study(run) for run in parser.parse_args().runs]
    found = tested(studies)
    print_scores(found)
    parent = max(("base", "arithmetic", "language"), key=lambda name: mean(found[name]))
    others = [parent, "uniform", "ties", "dare_linear, defaults", "dare_ties, defaults"]
    print_differences(found, others)
    print_costs(studies)


if __name__ == "__main__":
    main()
