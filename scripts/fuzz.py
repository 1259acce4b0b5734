"""Fuzzes everything that reads what strangers write, with the strategies of tests/fuzz.

    python scripts/fuzz.py --examples 100000 --seed 1           all targets, by their shares
    python scripts/fuzz.py --examples 5000 --target space       one of them
    python scripts/fuzz.py --atheris 60 --target journal        files as bytes, led by coverage, 60 seconds

An input must give a result or one UserError: no other exception, no hang, no write outside its folder, no
program, no connection, nothing unpickled. Prints counts for each target after each round, and each failure
with its input. atheris is no dependency of the project: install it where you use it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROUND = 4000
"""Inputs of all targets in one round, from one seed: hypothesis remembers all of a run, and grows slow."""
REARM, STUCK_S = 50, 600
"""Wall time of so many inputs after which one is stuck in compiled code, where the guard cannot stop it."""


@dataclass
class Count:
    """What happened to the inputs of one target."""

    passed: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)


def main() -> None:
    """Runs what is asked for; exit code 1 if an input broke something."""
    if "--atheris" in sys.argv:
        led_by_coverage()
        return
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=10_000, help="inputs of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=[t.name for t in TARGETS], action="append")
    options = parser.parse_args()
    targets = [t for t in TARGETS if options.target is None or t.name in options.target]
    shares = sum(t.weight for t in targets)
    with tempfile.TemporaryDirectory(prefix="evomerge-fuzz-") as folder:
        os.chdir(folder)
        run = _Run(Path(folder))
        rounds = max(1, round(options.examples / ROUND))
        for number in range(rounds):
            for target in targets:
                share = options.examples * target.weight / shares / rounds
                run.hypothesis(target, max(1, round(share)), options.seed * 1_000_003 + number)
            run.summary()
        sys.exit(run.summary())


def led_by_coverage() -> None:
    """Lets atheris look for files that reach new code, and stop at the first that breaks something."""
    import atheris

    with atheris.instrument_imports(include=["evomerge", "yaml"]):
        from fuzz_bytes import BYTE_TARGETS, damaged_json
        from fuzz_guard import guarded
        from fuzz_targets import Workshop

    parser = argparse.ArgumentParser()
    parser.add_argument("--atheris", type=int, metavar="SECONDS", required=True)
    parser.add_argument("--target", choices=list(BYTE_TARGETS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = BYTE_TARGETS[options.target]
    folder = Path(tempfile.mkdtemp(prefix="evomerge-fuzz-"))  # holds the input that broke something
    shop = Workshop(folder / "shop")
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(target.seeds(shop)):
        (corpus / str(i)).write_bytes(seed)

    def check(data: bytes) -> None:
        os.chdir(shop.empty())
        guarded(lambda: target.run(data, shop), shop.folder)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        changed = damaged_json(data, chance) if target.json and chance.random() < 0.8 else None
        return changed if changed is not None and len(changed) <= size else atheris.Mutate(data, size)

    limits = [f"-max_total_time={options.atheris}", f"-seed={options.seed + 1}", "-max_len=20000"]
    reports = [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *limits, *reports, str(corpus)], check, custom_mutator=mutate)
    atheris.Fuzz()


class _Run:
    def __init__(self, folder: Path) -> None:
        from fuzz_targets import Workshop

        self.folder = folder
        self.shop = Workshop(folder / "shop")
        self.counts: dict[str, Count] = {}
        self.broken = ""
        self.cause: BaseException | None = None

    def check(self, target: Any, count: Count) -> Callable[[Any], None]:
        """Runs one input, and remembers the last one that broke something."""
        from fuzz_guard import BrokenError, guarded

        def check(example: Any) -> None:
            text = repr(example)
            # A crash of compiled code takes the process with it: what it was at lies here.
            (self.folder / "last").write_text(
                f"{target.name}: {text}", encoding="utf-8", errors="backslashreplace"
            )
            os.chdir(self.shop.empty())
            count.inputs.add(hash(text))
            if len(count.inputs) % REARM == 0:  # a thread of its own: dear, if it is done for each input
                faulthandler.dump_traceback_later(STUCK_S, exit=True)
            try:
                passed = guarded(lambda: target.run(example, self.shop), self.shop.folder)
            except BrokenError as exception:
                self.broken = f"{exception}\n    input: {text[:3000]}"
                self.cause = exception.__cause__
                raise
            count.passed += passed
            count.refused += not passed

        return check

    def hypothesis(self, target: Any, examples: int, number: int) -> None:
        """Inputs from the seed ``number``; what breaks is shrunk."""
        import traceback

        from fuzz_guard import BrokenError
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from hypothesis.errors import Flaky

        count = self.counts.setdefault(target.name, Count())
        began = time.monotonic()
        check = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            print_blob=False,
        )(given(target.inputs())(self.check(target, count)))
        try:
            seed(number)(check)()
        except (BrokenError, Flaky):
            frames = traceback.extract_tb(self.cause.__traceback__)[-6:] if self.cause is not None else []
            where = "".join(f"\n      {f.filename}:{f.lineno} {f.name}" for f in frames)
            failure = f"seed {number}: {self.broken}{where}"
            count.failures.append(failure)
            print(f"  {target.name}: {failure}", flush=True)
        faulthandler.cancel_dump_traceback_later()
        count.seconds += time.monotonic() - began

    def summary(self) -> int:
        """Prints the table; the exit code."""
        names = ("inputs", "different", "passed", "refused", "broken", "s")
        print("\n" + "target".ljust(16) + "".join(name.rjust(10) for name in names))
        for name, c in self.counts.items():
            numbers = (
                c.passed + c.refused,
                len(c.inputs),
                c.passed,
                c.refused,
                len(c.failures),
                round(c.seconds),
            )
            print(name.ljust(16) + "".join(str(n).rjust(10) for n in numbers))
        total = sum(c.passed + c.refused for c in self.counts.values())
        broken = sum(len(c.failures) for c in self.counts.values())
        different = sum(len(c.inputs) for c in self.counts.values())
        print(f"{'all':16}{total:10}{different:10}{broken:10} broken", flush=True)
        return 1 if broken else 0


if __name__ == "__main__":
    main()
