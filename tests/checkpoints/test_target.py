"""A merge replaces nothing but merges, and loses none when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evomerge.checkpoints.checkpoint import TensorInfo
from evomerge.checkpoints.manifest import MANIFEST, read_folder
from evomerge.checkpoints.output_path import Protected, check_target, output_path
from evomerge.checkpoints.writer import CheckpointWriter
from evomerge.errors import OutputError

INFOS = {"a": TensorInfo((3, 5), torch.float32)}
RECIPE = "merge_method: linear\nmodels: []\n"
FINGERPRINT = "0" * 32


def merge(folder: Path, value: float = 0.0, *, overwrite: bool = False) -> None:
    with CheckpointWriter(folder, INFOS, shard_bytes=10**9, overwrite=overwrite) as writer:
        writer.tensor("a").put(0, torch.full((3, 5), value))
        writer.write_text("README.md", "a card")
        writer.write_text("evomerge_recipe.yml", f"# evomerge-fingerprint: {FINGERPRINT}\n{RECIPE}")
        writer.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["notes.txt", "deep/thesis.tex", ".hidden", "model-copy.safetensors"])
def test_a_foreign_file_beside_a_merge_is_named_and_nothing_is_touched(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge(out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=name.split("/", maxsplit=1)[0]):
        merge(out, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "evomerge_recipe.yml"])
def test_a_file_that_was_changed_after_the_merge_is_named_and_nothing_is_touched(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    merge(out)
    data = bytearray((out / name).read_bytes())
    data[-1] ^= 1
    (out / name).write_bytes(bytes(data))
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=f"changed since the merge.*{name}"):
        merge(out, overwrite=True)
    assert contents(tmp_path) == before


def test_a_foreign_file_that_appears_while_the_merge_runs_stops_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge(out)
    with CheckpointWriter(out, INFOS, shard_bytes=10**9, overwrite=True) as writer:
        (out / "late.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"late\.txt"):
            writer.commit()
    assert (out / "late.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def legacy(out: Path) -> None:
    """A merge as release 0.1.0 left it: no manifest."""
    merge(out)
    (out / MANIFEST).unlink()
    (out / "config.json").write_text("{}")
    (out / "README.md").write_text(
        "---\nlibrary_name: transformers\ntags:\n- merge\n- evomerge\n---\n\n# A `linear` merge\n\n"
        f"## Recipe\n\n```yaml\n{RECIPE}```\n\nFingerprint of the weights: `{FINGERPRINT}`\n\n"
        "## Again\n\n```bash\nevomerge merge evomerge_recipe.yml OUT_DIR\n```\n"
    )


def test_a_merge_of_an_earlier_release_is_replaced(tmp_path: Path) -> None:
    legacy(tmp_path / "out")
    merge(tmp_path / "out", 1.0, overwrite=True)
    assert (tmp_path / "out" / MANIFEST).exists()
    assert not (tmp_path / "out" / "config.json").exists()


def test_what_is_not_of_the_merge_of_an_earlier_release_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    legacy(out)
    (out / "notes.txt").write_text("mine")
    assert read_folder(out).foreign == ("notes.txt",)
    (out / "notes.txt").unlink()
    (out / "README.md").write_text((out / "README.md").read_text() + "My evaluation: 0.7\n")
    later = (out / "evomerge_recipe.yml").stat().st_mtime + 60
    os.utime(out / "model.safetensors", (later, later))
    assert read_folder(out).changed == ("README.md", "model.safetensors")


KILLED = """
import os, sys, traceback
from itertools import count
from pathlib import Path
from evomerge.checkpoints import exchange
import test_target as t

out, one_step = Path(sys.argv[1]), sys.argv[2] == "True"

def in_child(work, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_merge(step):
    left = [step]
    if not one_step:
        exchange._swap = lambda *_: False
    def trace(event, args):
        if event in ("os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
    sys.addaudithook(trace)
    t.merge(out, 2.0, overwrite=True)

def recovered():
    exchange.recover(t.output_path(out))
    assert not t.read_folder(out).foreign
    assert {"model.safetensors", "README.md", t.MANIFEST} <= set(t.read_folder(out).written)

for step in count():  # each merge has a process of its own, which has imported everything and done nothing
    assert in_child(lambda: t.merge(out, 1.0, overwrite=True)) == 0
    code = in_child(killed_merge, step)
    assert code in (0, 9), code
    if code == 0:
        break
    assert in_child(recovered) == 0
print(step)
"""


@pytest.mark.slow
@pytest.mark.parametrize("one_step", [True, False])
def test_a_kill_at_any_step_of_the_exchange_leaves_the_old_or_the_new_merge(
    one_step: bool, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(one_step)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_merges_into_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", INFOS, shard_bytes=10**9) as writer:
        with pytest.raises(OutputError, match="another process is writing"):
            merge(tmp_path / "out")
        writer.commit()
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("in", "is the input"),
        ("in/", "is the input"),
        ("in/sub/deep", "lies inside the input"),
        ("up/../in", "is the input"),
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("above/../link/sub", "lies inside the input"),
        ("cache/snapshot", "is the input"),
        ("cache/blobs", "is the input"),
        ("cache", "contains the input"),
        (".", "contains"),
        ("file", "is a file"),
        ("file/sub", "cannot be written"),
        ("run", "run"),
    ],
)
def test_an_output_that_would_hit_something_else_is_refused_in_every_spelling(
    output: str, word: str, tmp_path: Path
) -> None:
    for folder in ("in", "up", "above", "cache/blobs", "cache/snapshot", "run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "cache/blobs/1").write_text("{}")
    (tmp_path / "cache/snapshot/config.json").symlink_to("../blobs/1")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run/run.json").write_text("{}")
    inputs = [Protected(tmp_path / n, f"the input {n}", inside=True) for n in ("in", "cache/snapshot")]
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=word):
            check_target(output_path(Path(f"{tmp_path}/{output}")), inputs, overwrite=overwrite)


def test_a_new_folder_inside_the_recipes_or_the_runs_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    recipe = Protected(tmp_path, "the recipe's folder")
    check_target(output_path(tmp_path / "merged"), [recipe])


def test_folders_made_on_the_way_go_with_a_merge_that_fails(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "a" / "b" / "out", INFOS, shard_bytes=10**9):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
