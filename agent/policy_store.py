"""The policy directory and the documents in force.

A document is what lives and dies alone. The directory is read whole; every document in it that is good is in force, and
of one that is bad the last good revision stays, as long as its file is there: a mistake in one place takes nothing away
in another. Documents in force are kept in `state_dir/last-good`, one file each, so that a restart beside a bad file
finds them again. A directory that cannot be read is an error and not an empty set: a lost mount must not take every
policy away.

What a bad document was called is often not to be told from a text that cannot be read. So beside a mistake in a file
every document that this file had before stays until the file is good, also one that was taken out of it meanwhile.
"""

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from policies.compile import compile_policies
from policies.errors import PolicyError, Problem
from policies.load import Document, duplicates, load_one
from policies.policyset import PolicySet
from policies.source import MAX_BYTES

log = logging.getLogger("tulle.agent.policies")

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
SOURCES = ".sources"
"""Beside the documents in last-good: which file of the directory each came from, and its revision."""

type Key = tuple[str, str, str]
"""(kind, namespace, name)"""


@dataclass(frozen=True, slots=True)
class InForce:
    """One document in force. digest: of what it says alone. revision: of the set in which it first said that. stale:
    the directory has something else for it, which is bad."""

    document: Document
    digest: str
    revision: int = 0
    stale: bool = False


@dataclass(frozen=True, slots=True)
class _Read:
    """What one file said when it had these bytes."""

    content: bytes
    good: tuple[InForce, ...]
    problems: tuple[Problem, ...]


class PolicyStore:
    """What is in force, what is wrong in the directory, and the number of both."""

    def __init__(self, directory: Path, state_dir: Path) -> None:
        self._directory = directory
        self._last_good = state_dir / "last-good"
        self._record = state_dir / "revision.json"
        self.current: PolicySet | None = None
        """The set in force; None until a good document was seen, or a directory without any."""
        self.documents: Mapping[Key, InForce] = {}
        """What `current` is made of."""
        self.revision = 0
        self.errors: list[str] = []
        """One line per mistake in the directory as it is now; empty when all that is there is in force."""
        self.save_error: str | None = None
        """Why what is in force is not on disk: a restart beside a bad file would find an older set."""
        self._digest = ""
        self._cache: dict[Path, _Read] = {}
        self._kept: dict[str, tuple[str, InForce]] = {}
        """What last-good has: by file name, the text and what it says."""
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
        before = self.documents
        restored = self.current is None and self._restore()
        if restored:
            before = {one.document.key: one for _, one in self._kept.values()}
        try:
            files = self._files(self._directory)
            device = self._directory.stat().st_dev
            if not files and self._device not in (None, device):
                lost = "it is empty, and not on the file system that the policies were on: a lost mount?"
                raise OSError(errno.ENODEV, lost, str(self._directory))
        except OSError as error:
            self._say([f"cannot read '{error.filename or self._directory}': {error.strerror}"])
            return restored and self._adopt(before, before)
        wanted, problems = self._wanted(files, before)
        self._say([str(problem) for problem in sorted(set(problems))])
        if self.current is None and not restored and problems and not wanted:
            return False  # nothing was ever good here: nobody can say what is meant
        self._device = device if files else None
        changed = self._adopt(wanted, before)
        if changed or self.save_error is not None:
            self._remember()
        return changed

    def touched(self) -> bool:
        """Whether the directory looks different from the last `rescan`: a watch can miss what a scan cannot."""
        return self._look() != self._seen

    def _wanted(self, files: list[Path], before: Mapping[Key, InForce]) -> tuple[dict[Key, InForce], list[Problem]]:
        """What is to be in force, and what is wrong."""
        self._cache = {file: self._read(file) for file in files}
        problems = [problem for read in self._cache.values() for problem in read.problems]
        good = [one for read in self._cache.values() for one in read.good]
        twice = duplicates(one.document for one in good)
        problems += twice
        wanted: dict[Key, InForce] = {}
        several: set[Key] = set()
        for one in good:
            if wanted.setdefault(one.document.key, one) is not one:
                several.add(one.document.key)
        for key in several:  # which of them is meant, nobody can say
            del wanted[key]
            if key in before:
                wanted[key] = replace(before[key], stale=True)
        bad = {problem.file for problem in problems} & set(map(str, files))
        for key, one in before.items():
            if key not in wanted and one.document.file in bad:
                wanted[key] = replace(one, stale=True)
        return wanted, problems

    def _read(self, file: Path) -> _Read:
        """What a file says; what it said when it has not changed."""
        content = _content(file)
        known = self._cache.get(file)
        if content is not None and known is not None and known.content == content:
            return known
        good, problems = _load(file)
        again = _content(file)
        # a file that is being written, or cannot be read, is looked at again the next time
        return _Read(content if content is not None and content == again else b"", tuple(good), tuple(problems))

    def _adopt(self, wanted: Mapping[Key, InForce], before: Mapping[Key, InForce]) -> bool:
        """Put these documents in force; whether that is another set than before."""
        if self.current is not None and wanted.keys() == self.documents.keys():
            pairs = [(one, self.documents[key]) for key, one in wanted.items()]
            if all(one.document is other.document and one.stale == other.stale for one, other in pairs):
                return False
        policies = compile_policies([one.document for one in wanted.values()])
        first = self.current is None
        changed = policies.digest != self._digest
        if changed or self.revision == 0:
            self.revision += 1
        self.current, self._digest = policies, policies.digest
        documents: dict[Key, InForce] = {}
        for key, one in wanted.items():
            earlier = before.get(key)
            known = earlier is not None and earlier.digest == one.digest
            documents[key] = replace(one, revision=earlier.revision if earlier and known else self.revision)
        self.documents = documents
        return first or changed

    def _say(self, errors: list[str]) -> None:
        if errors != self.errors:
            for line in errors:
                log.error("%s", line)
        self.errors = errors

    def _look(self) -> tuple[tuple[str, int, int, int], ...]:
        try:
            return tuple(
                (path.name, info.st_ino, info.st_size, info.st_mtime_ns)
                for path in self._files(self._directory)
                for info in [path.stat()]
            )
        except OSError:
            return ()

    # -- what is kept on disk

    def _restore(self) -> bool:
        """Read what was in force before a restart; whether anything ever was, an empty set too."""
        try:
            files = self._files(self._last_good)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.error("no last good policies: %s", error)
            return False
        sources: dict[str, tuple[str, int]] = {}
        try:
            raw = json.loads((self._last_good / SOURCES).read_text())
            sources = {str(name): (str(source), int(revision)) for name, (source, revision) in raw.items()}
        except (OSError, ValueError, TypeError) as error:
            # an earlier version kept copies of the files under their own names
            log.info("last good policies are taken by their file names: %s", error)
        self._kept = {}
        for file in files:
            source, revision = sources.get(file.name, (file.name, self.revision))
            good, problems = _load(file)
            for problem in problems:
                log.error("a last good policy cannot be read: %s", problem)
            for at, one in enumerate(good):
                document = replace(one.document, file=str(self._directory / source))
                name = file.name if len(good) == 1 else f"{file.name}/{at}"  # such a file is written anew as several
                self._kept[name] = document.text, replace(one, document=document, revision=revision)
        return True

    def _remember(self) -> None:
        """Keep the documents in force. A full disk is said and tried again; it does not hold policies up."""
        try:
            self._write()
            self.save_error = None
        except OSError as error:
            self.save_error = f"cannot keep the policies in '{self._last_good}': {error.strerror}"
            log.error("%s", self.save_error)

    def _write(self) -> None:
        """Only what differs. Every document is whole at every moment, and its source is named before it is there."""
        wanted = {_kept_name(key): one for key, one in self.documents.items()}
        self._last_good.mkdir(parents=True, exist_ok=True)
        sources = {name: (one.document.file, one.revision) for name, (_, one) in self._kept.items()}
        sources |= {name: (one.document.file, one.revision) for name, one in wanted.items()}
        listed = {name: (Path(file).name, revision) for name, (file, revision) in sorted(sources.items())}
        self._replace(self._last_good / SOURCES, json.dumps(listed))
        for name, one in wanted.items():
            text = one.document.text
            if name not in self._kept or self._kept[name][0] != text or not (self._last_good / name).exists():
                self._replace(self._last_good / name, text)
            self._kept[name] = text, one
        for file in self._files(self._last_good):
            if file.name not in wanted:
                file.unlink(missing_ok=True)
        self._kept = {name: self._kept[name] for name in wanted}
        shutil.rmtree(self._last_good.with_suffix(".new"), ignore_errors=True)  # of an earlier version
        record = {"revision": self.revision, "digest": self._digest, "device": self._device}
        self._replace(self._record, json.dumps(record))

    @staticmethod
    def _replace(file: Path, text: str) -> None:
        fresh = file.with_name(f".{file.name}.new")
        fresh.write_text(text)
        fresh.rename(file)

    @staticmethod
    def _files(directory: Path) -> list[Path]:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))


def _kept_name(key: Key) -> str:
    """A file name of its own for every document; its first part is for people."""
    readable = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in ".".join(key[1:]).strip("."))
    return f"{readable[:100]}.{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.yaml"


def _content(file: Path) -> bytes | None:
    """What a file holds, to see whether it changed; None where `load_one` will say why it cannot be read."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            return hashlib.sha256(opened.read(MAX_BYTES + 1)).digest()  # what is longer is refused, whatever it says
    except OSError:
        return None


def _load(file: Path) -> tuple[list[InForce], list[Problem]]:
    """The good documents of one file, and what is wrong with the others."""
    documents, problems = load_one(file)
    good: list[InForce] = []
    for document in documents:
        try:
            good.append(InForce(document, compile_policies([document]).digest))
        except PolicyError as error:
            problems += error.problems
    return good, problems
