"""The policy directory and the revision in force.

A directory is read whole. When every document in it is good the set is swapped in and gets the next revision; when
one is bad the last good set stays, and the errors are kept for `status`. The good set is copied to
`state_dir/last-good`, so that a restart beside a bad file finds it again. A directory that cannot be read is an error
and not an empty set: a lost mount must not take every policy away.
"""

import errno
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from policies.compile import PolicySet, compile_policies
from policies.errors import PolicyError
from policies.load import load_files

log = logging.getLogger("tulle.agent.policies")

SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class PolicyStore:
    """What is in force, what is wrong in the directory, and the number of both."""

    def __init__(self, directory: Path, state_dir: Path) -> None:
        self._directory = directory
        self._last_good = state_dir / "last-good"
        self._record = state_dir / "revision.json"
        self.current: PolicySet | None = None
        """The set in force; None until a good one was seen."""
        self.revision = 0
        self.errors: list[str] = []
        """One line per mistake in the directory as it is now; empty when what is there is in force."""
        self.save_error: str | None = None
        """Why what is in force is not on disk: a restart beside a bad file would find an older set."""
        self._digest = ""
        self._seen: tuple[tuple[str, int, int, int], ...] = ()
        self._device: int | None = None
        """File system of the directory when documents were last in it; None when the set in force is empty."""
        try:
            record = json.loads(self._record.read_text())
            self.revision, self._digest = int(record["revision"]), str(record["digest"])
            self._device = record.get("device")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot read '%s', revisions start again: %s", self._record, error)

    def rescan(self) -> bool:
        """Read the directory again; true when another set is in force afterwards."""
        self._seen = self._look()
        try:
            files = self._files(self._directory)
            device = self._directory.stat().st_dev
            if not files and self._device not in (None, device):
                lost = "it is empty, and not on the file system that the policies were on: a lost mount?"
                raise OSError(errno.ENODEV, lost, str(self._directory))
            policies = compile_policies(load_files(files))
        except (OSError, PolicyError) as error:
            self.errors = self._lines(error)
            for line in self.errors:
                log.error("%s", line)
            return self.current is None and self._restore()
        self.errors = []
        self._device = device if files else None
        changed = self.current is None or policies.digest != self._digest
        if changed:
            self._adopt(policies)
        if changed or self.save_error is not None:
            self._remember(files)
        return changed

    def touched(self) -> bool:
        """Whether the directory looks different from the last `rescan`: a watch can miss what a scan cannot."""
        return self._look() != self._seen

    def _look(self) -> tuple[tuple[str, int, int, int], ...]:
        try:
            return tuple(
                (path.name, info.st_ino, info.st_size, info.st_mtime_ns)
                for path in self._files(self._directory)
                for info in [path.stat()]
            )
        except OSError:
            return ()

    def _restore(self) -> bool:
        """After a start beside a bad file: the last good set, if there was one."""
        try:
            policies = compile_policies(load_files(self._files(self._last_good)))
        except (OSError, PolicyError) as error:
            log.error("no last good policies: %s", error)
            return False
        self._adopt(policies)
        return True

    def _adopt(self, policies: PolicySet) -> None:
        if policies.digest != self._digest or self.revision == 0:
            self.revision += 1
        self.current, self._digest = policies, policies.digest

    def _remember(self, files: Sequence[Path]) -> None:
        """Keep a copy of the set in force. A full disk is said and tried again; it does not hold policies up."""
        try:
            self._write(files)
            self.save_error = None
        except OSError as error:
            self.save_error = f"cannot keep the policies in '{self._last_good}': {error.strerror}"
            log.error("%s", self.save_error)

    def _write(self, files: Sequence[Path]) -> None:
        fresh = self._last_good.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, fresh / file.name)
        shutil.rmtree(self._last_good, ignore_errors=True)
        fresh.rename(self._last_good)
        self._record.with_suffix(".new").write_text(
            json.dumps({"revision": self.revision, "digest": self._digest, "device": self._device})
        )
        self._record.with_suffix(".new").rename(self._record)

    @staticmethod
    def _files(directory: Path) -> list[Path]:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))

    def _lines(self, error: OSError | PolicyError) -> list[str]:
        if isinstance(error, PolicyError):
            return [str(problem) for problem in error.problems]
        return [f"cannot read '{error.filename or self._directory}': {error.strerror}"]
