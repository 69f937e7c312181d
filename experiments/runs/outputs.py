"""Output folders: what a run's folder says about how it came to be, whose it is, and whether it may be written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.config.load import saved_as_today, to_yaml
from experiments.config.values import texts_in
from experiments.runs.metric_record import record_fault
from experiments.runs.progress import say
from experiments.runs.provenance import provenance
from negatives.tables import (
    DAMAGED,
    InputError,
    damage,
    held_inside,
    hold,
    is_held,
    is_lock_file,
    write_json,
    write_text,
)

CONFIG_FILE, PROVENANCE_FILE = "config.yaml", "provenance.json"
METRICS_FILE = "metrics.jsonl"
"""In the `logs/` of a training: see `metric_record`."""
ELSEWHERE = "or give another output_dir"
UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")
"""What a file or folder is called until it is whole: `write_table` and its like use these names too."""


class OutputFolder:
    """The folder that a verb writes into. Making one locks and checks the folder; `claim` prepares it.

    The lock is held as long as the object lives: a second process is refused before it computes anything.

    Args:
        config: the verb's configuration, with `output_dir`.
        verb: a folder is only resumed or overwritten by the verb that wrote it.
        result: the file that is written last; a folder that holds it is finished.
        resume: go on in an existing folder, which has to have the same configuration (`logging` aside).
        overwrite: empty an existing folder, which must not hold what the configuration reads.
        may_differ: dotted keys that may have another value when a run goes on, with all below them.
        kept: files and folders that `overwrite` leaves, with all whose names begin so.
        private: keys of local paths in a folder that gets published: it holds their last part and a hash instead, by
            which `resume` still knows them, and no command line.

    Attributes:
        path: the folder.
        finished: with `resume`, whether there is nothing left to do; then no file in the folder shows damage.

    Raises:
        InputError: another process works in the folder, or it exists and neither flag is set, or it is not this verb's,
            or a flag's condition fails, or what it goes on from is damaged.
    """

    def __init__(
        self,
        config: Any,
        *,
        verb: str,
        result: str,
        resume: bool,
        overwrite: bool,
        may_differ: Collection[str] = (),
        kept: Collection[str] = (),
        private: Collection[str] = (),
    ):
        self.path, self.verb, self._schema = Path(config.output_dir), verb, type(config)
        shown = {key: without_folders(getattr(config, key)) for key in private}
        self.yaml, self._left_out = to_yaml(dataclasses.replace(config, **shown)), {"argv"} if private else set()
        self._empties, self._kept, self._result = False, tuple(kept), result
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"output_dir must be a folder, {self.path} is a file; give another output_dir.")
        self._lock = hold(self.path)
        if not self._lock.works:
            say(f"{self.path} is on a file system without locks: do not start two processes on it.")
        self.finished = resume and (self.path / result).is_file()
        # a sweep's tasks have folders of their own, which are looked at where they are read
        if resume and verb != "sweep" and (fault := find_damage(self.path, finished=self.finished)):
            raise InputError(f"{fault}. Put it back from a copy, or start anew with --overwrite, {ELSEWHERE}.")
        # an empty folder, as schedulers make it beforehand, is as good as none; so is one in which another rank, which
        # is ahead of this one, has begun what is kept
        if is_empty(self.path, self._kept):
            return
        if not resume and not overwrite:
            raise InputError(f"{self.path} exists: go on with it by --resume, replace it by --overwrite, {ELSEWHERE}.")
        self._check_owner("--resume" if resume else "--overwrite")
        if resume and verb != "sweep":  # a sweep may grow; its manifest checks each task
            self._check_same_configuration(may_differ)
        if overwrite:
            self._check_no_input_inside(config)
            self._check_none_works_inside()
            self._empties = True

    def claim(self) -> Path:
        """Empties the folder where asked to, and writes `config.yaml` and `provenance.json`; returns the folder."""
        if self._empties:
            _empty(self.path, self._kept)
        self._remove_unfinished(self.path)
        self._describe(self.path)
        return self.path

    @contextmanager
    def whole(self) -> Iterator[Path]:
        """Instead of `claim`: a folder beside this one to write to, which takes its place when the block ends.

        Where the block fails, nothing is left of it, and what was there before stays; where the process is killed while
        the two change places, the next call puts it back first. A folder that has to stay where it is gets the files,
        the one that says that it is finished last.
        """
        path = self.path.resolve()
        # a rename replaces no folder that holds files, so the old one has to step aside first
        before = path.with_name(f".{path.name}.before")
        if before.exists() and not path.exists():  # a process was killed between the two renames below
            before.rename(path)
        shutil.rmtree(before, ignore_errors=True)
        with self.beside() as beside:
            self._describe(beside)
            yield beside
            if beside.parent == path:
                self._fill(beside)
                return
            try:
                if path.exists():
                    path.rename(before)
                beside.rename(path)
            finally:
                if before.exists() and not path.exists():
                    before.rename(path)
                shutil.rmtree(before, ignore_errors=True)

    @contextmanager
    def beside(self) -> Iterator[Path]:
        """A new folder next to this one, under a name of its own, gone at the end whatever happens.

        Those of processes that were killed are removed first. Where nothing can be next to this one, it is in it.
        """
        path = self.path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        # a container's /out: a mounted folder cannot be renamed, and what is beside it is on another disk
        stays = path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK))
        place = path if stays else path.parent
        self._remove_unfinished(place, of=path.name)
        # on the same file system, or it could not be renamed into place
        temporary = place / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir()
        # `claim` may come while it is in use, and inside this folder
        self._kept += (temporary.name,)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _fill(self, beside: Path) -> None:
        path = beside.parent
        (path / self._result).unlink(missing_ok=True)
        # whose the folder is stays known throughout
        _empty(path, (beside.name, PROVENANCE_FILE))
        for child in sorted(beside.iterdir(), key=lambda file: file.name == self._result):
            child.rename(path / child.name)

    def _remove_unfinished(self, folder: Path, of: str | None = None) -> None:
        """Removes what processes that were killed in the middle of a write left in a folder and below.

        Args:
            folder: where to look.
            of: looks only in the folder itself, for what was to get this name.
        """
        # only by the lock is it known that whoever wrote it has ended
        if not self._lock.works or not folder.is_dir():
            return
        for path in folder.iterdir():
            found = UNFINISHED.fullmatch(path.name)
            if found and of in (None, found["name"]):
                # another verb may be writing into a folder beside, as a comparison in a sweep's folder
                in_use = path.name.startswith(self._kept) or (of is None and is_held(path.with_name(found["name"])))
                if not in_use:
                    _remove(path)
            # another verb's folder, as `evaluation/` in a run's, has a lock of its own; what is kept may be in use
            elif of is None and path.is_dir() and not path.is_symlink() and not self._is_kept(path):
                self._remove_unfinished(path)

    def _is_kept(self, path: Path) -> bool:
        """Whether a folder in this one is not this verb's to clean up."""
        return path.name.startswith(self._kept) or (path / PROVENANCE_FILE).exists()

    def _describe(self, folder: Path) -> None:
        content = {key: value for key, value in provenance().items() if key not in self._left_out}
        write_json({"verb": self.verb, **content}, folder / PROVENANCE_FILE)
        write_text(self.yaml, folder / CONFIG_FILE)

    def _check_owner(self, flag: str) -> None:
        try:
            owner = json.loads((self.path / PROVENANCE_FILE).read_text(encoding="utf-8"))["verb"]
        except DAMAGED:
            owner = "something else"
        if owner != self.verb:
            # without the leading "or "
            raise InputError(f"{flag} needs a folder of `itm {self.verb}`, {self.path} is of {owner}; {ELSEWHERE[3:]}.")

    def _check_same_configuration(self, may_differ: Collection[str]) -> None:
        saved = self.path / CONFIG_FILE
        if not saved.exists():  # an interrupted claim
            return
        try:
            before = saved_as_today(self._schema, saved) if saved.stat().st_size else None
        except Exception:  # OmegaConf's and YAML's are many
            before = None
        if before is None:
            raise InputError(f"{saved} is damaged; start anew with --overwrite, {ELSEWHERE}.")
        now = OmegaConf.to_container(OmegaConf.create(self.yaml))
        # the dot: a key frees what is below it, not a key whose name begins alike
        free = tuple(f"{key}." for key in may_differ)
        if keys := sorted({key for key in _differences(before, now) if not f"{key}.".startswith(free)}):
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            listed = ", ".join(f"`{key}`" for key in keys[:3])
            raise InputError(
                f"{self.path} was made with another {listed}{more}; start anew with --overwrite, {ELSEWHERE}."
            )

    def _check_no_input_inside(self, config: Any) -> None:
        root = self.path.resolve()
        for value in texts_in(dataclasses.asdict(config)):
            path = Path(value)
            # any text may stand in a configuration: what is too long or has a null byte is no path and must not raise
            inside = len(value) < 4096 and "\0" not in value and path.resolve().is_relative_to(root)
            kept = inside and str(path.resolve().relative_to(root)).startswith(self._kept)
            # a sweep names its own results in its configuration; so does every verb its output folder
            if inside and not kept and self.verb != "sweep" and path.resolve() != root and path.exists():
                raise InputError(f"--overwrite would delete {value}, which this run reads; give another output_dir.")

    def _check_none_works_inside(self) -> None:
        """That nobody is at work in the folder, as an evaluation of the run: it would end in the new run's folder."""
        for inside in held_inside(self.path):
            if not str(inside.relative_to(self.path.resolve())).startswith(self._kept):
                raise InputError(f"--overwrite would delete {inside}, which another process writes; wait for its end.")


def without_folders(path: str) -> str:
    """The last part of a path and a hash of all of it: two paths stay two, and no folder is named.

    >>> without_folders("/home/me/clip"), without_folders("/home/you/clip")
    ('clip-24aaa22e', 'clip-82c89660')
    """
    return f"{Path(path).name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def is_empty(folder: Path, kept: tuple[str, ...] = ()) -> bool:
    """Whether a folder is not there, or holds nothing but locks and what has a name of `kept`."""
    return not folder.exists() or all(is_lock_file(path) or path.name in kept for path in folder.iterdir())


def find_damage(folder: Path, *, finished: bool) -> str:
    """What is damaged of what a verb left in its folder; "" where nothing shows.

    Args:
        folder: of the verb; the folders of others in it are left out.
        finished: whether every file is whole. Otherwise only the record of metrics is looked at: the verbs find by
            themselves what they cannot go on from.
    """
    for path in _files_of(folder) if finished else ():
        if fault := damage(path):
            return f"{path} is damaged ({fault})"
    record = folder / "logs" / METRICS_FILE
    return f"{record} is damaged ({fault})" if (fault := record_fault(record)) else ""


def _files_of(folder: Path) -> Iterator[Path]:
    """The files that one verb made: without those of another verb's folder in it, and of W&B."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif path.is_dir() and path.name != "wandb" and not (path / PROVENANCE_FILE).exists():
            yield from _files_of(path)


def _differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Dotted keys whose values differ, `logging` aside."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        # where metrics go changes no result
        for key in {*before, *now} - ({"logging"} if not place else set()):
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))
    elif before != now:
        yield place


def _empty(folder: Path, kept: tuple[str, ...]) -> None:
    # the mark goes last, so that an overwrite that was interrupted can be repeated
    for child in sorted(folder.iterdir(), key=lambda path: path.name == PROVENANCE_FILE):
        # another process may hold a lock on what is in here
        if not child.name.startswith(kept) and not is_lock_file(child):
            _remove(child)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
