"""Files with values changed, moved and gone; ``scripts/fuzz.py --atheris`` does more, led by coverage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_bytes import BYTE_TARGETS, damaged_json
from fuzz_guard import guarded
from fuzz_targets import Workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("bytes"))


@pytest.mark.parametrize("name", [name for name, target in BYTE_TARGETS.items() if target.json])
def test_no_damaged_file_is_a_traceback(name: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    target, chance = BYTE_TARGETS[name], random.Random(5)
    (seed,) = target.seeds(shop)
    for _ in range(60):
        data = seed
        for _ in range(chance.randint(1, 3)):
            data = damaged_json(data, chance) or data
        monkeypatch.chdir(shop.empty())
        guarded(lambda data=data: target.run(data, shop), shop.folder)  # type: ignore[misc]


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        line[key] = value

    return change


def _shown(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        line["user_attrs"][key] = value

    return change


CREATE, USER, SYSTEM, TRIAL = 0, 2, 3, 4
FOUND: dict[str, tuple[int, Callable[[dict[str, Any]], None], str]] = {
    "operation": (CREATE, _set("op_code", 99), "a line of this journal is damaged"),
    "no operation": (CREATE, lambda line: line.clear(), "is not a journal of studies"),
    "objectives": (CREATE, _set("directions", [1, 2]), ""),
    "name": (CREATE, _set("study_name", 5), "there is no study 's'"),
    "lease": (SYSTEM, _set("system_attr", {"evomerge:lease": "x"}), "who drives it cannot be read"),
    "holder": (SYSTEM, _set("system_attr", {"evomerge:lease": {"pid": 1}}), "who drives it cannot be read"),
    "head": (USER, _set("user_attr", {"evomerge": {"format": 1}}), "its own record cannot be read"),
    "score": (TRIAL, _set("value", "0.5"), "a trial cannot be read"),
    "generation": (TRIAL, _shown("generation", "0"), "a trial cannot be read"),
    "values": (
        TRIAL,
        lambda line: line["system_attrs"]["evomerge"].update(parameters=[1]),
        "a trial cannot be read",
    ),
    "failure": (TRIAL, _shown("failure", "x"), "a trial cannot be read"),
    "scores": (
        TRIAL,
        lambda line: line["system_attrs"].update({"evomerge:scores": '{"split": 1}'}),
        "scores of a trial",
    ),
    "items": (USER, _set("user_attr", {"items:0f": "[1]"}), "the items of a task cannot be read"),
    "split": (USER, _set("user_attr", {"test/0": "{}"}), "a result of validation or test cannot be read"),
    "split of nothing": (USER, _set("user_attr", {"test/77": "{}"}), ""),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_journal_that_was_once_a_traceback_is_a_message(
    case: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.errors import StudyError

    operation, change, said = FOUND[case]
    (seed,) = BYTE_TARGETS["journal"].seeds(shop)
    lines = [json.loads(line) for line in seed.splitlines()]
    place = max(i for i, line in enumerate(lines) if line["op_code"] == operation)
    change(lines[place])
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    monkeypatch.chdir(shop.empty())
    if said:
        with pytest.raises(StudyError, match=said):
            BYTE_TARGETS["journal"].run(data, shop)
    else:
        BYTE_TARGETS["journal"].run(data, shop)
