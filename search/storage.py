"""A place for runs outside the machine: a folder of any filesystem that pyarrow knows, by its URI.

A file there is replaced whole or not at all: object stores show an object once all of it has arrived, and a local or
mounted folder is written under a hidden name first.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from search.files import write_atomically
from trainers.settings import ConfigError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
"""Between attempts at a storage that does not answer; the pause doubles."""
_SECRET = re.compile(r"key|secret|token|passw|credential|signature|^sig$", re.IGNORECASE)
_COPIED_BYTES = 8 * 2**20
_Found = TypeVar("_Found")


class StorageError(ValueError):
    """A storage that does not take or give something; the message says which and why."""


def check_storage(uri: str) -> None:
    """Refuse what is no URI of a storage, or holds a secret: it would be written to files that people share.

    Raises:
        ConfigError: with what would be right; the message repeats no secret.
    """
    parts = urlsplit(uri)
    secrets = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET.search(name)]
    if parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        secrets.insert(0, "a user or password before the @")
    if secrets:
        raise ConfigError(
            f"storage must hold no secret, since it is written to config.yaml; it has {', '.join(secrets)}. "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of all nodes, or whatever else the "
            "filesystem reads there."
        )
    if not (parts.scheme and "://" in uri) and not uri.startswith("/"):
        raise ConfigError(f"storage must be a URI such as s3://bucket/folder, or an absolute path; got {uri!r}.")


@dataclass(frozen=True)
class Storage:
    """The folder at ``uri``; names in it are relative, with slashes."""

    uri: str

    def child(self, name: str) -> Storage:
        """The folder ``name`` in this one."""
        place, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Storage(f"{place.rstrip('/')}/{name}{mark}{query}")

    @property
    def place(self) -> str:
        """The URI for people: without the parameters behind it."""
        return self.uri.partition("?")[0] if "://" in self.uri else self.uri

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file, or replace it; returns when the storage has it.

        Raises:
            StorageError: it does not take it; what was there is still there.
        """
        data = _bytes_of(content)
        with self._told("written"):
            filesystem, folder = self._opened
            if isinstance(filesystem, fs.LocalFileSystem):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, lambda stream: stream.write(data))
                return
            with filesystem.open_output_stream(f"{folder}/{name}", compression=None) as stream:
                stream.write(data)

    def require_writable(self) -> None:
        """Refuse early a storage that would take nothing.

        Raises:
            StorageError: naming it and why.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.put(probe, b"here")
        self.remove(probe)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; none if there is no such file.

        Raises:
            StorageError: the storage does not give it.
        """
        with self._told("read"):
            filesystem, folder = self._opened
            try:
                with filesystem.open_input_stream(f"{folder}/{name}", compression=None) as stream:
                    content: bytes = stream.read()
            except FileNotFoundError:
                return None
            return content

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file to ``path``, which has all of it or is left as it was; false if there is no such file.

        Raises:
            StorageError: the storage does not give it.
            OSError: ``path`` cannot be written.
        """
        with self._told("read"):
            filesystem, folder = self._opened
            try:
                source = filesystem.open_input_stream(f"{folder}/{name}", compression=None)
            except FileNotFoundError:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with source:
            write_atomically(path, lambda stream: self._copy(source, stream))
        return True

    def files(self) -> dict[str, fs.FileInfo]:
        """All files in this folder and below it, by their names here; hidden ones are left out.

        Raises:
            StorageError: the storage does not say, or has names that would lead out of a folder.
        """
        with self._told("read"):
            filesystem, folder = self._opened
            found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        files = {info.path[len(folder) + 1 :]: info for info in found if info.type == fs.FileType.File}
        strange = [name for name in files if ".." in PurePosixPath(name).parts or name.startswith("/")]
        if strange:
            raise StorageError(f"The storage {self.place} has a file {strange[0]!r}, which is no part of a run.")
        return {name: info for name, info in files.items() if not PurePosixPath(name).name.startswith(".")}

    def folders(self) -> list[str]:
        """Names of the folders in this one.

        Raises:
            StorageError: the storage does not say.
        """
        with self._told("read"):
            filesystem, folder = self._opened
            found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return [info.base_name for info in found if info.type == fs.FileType.Directory]

    def modified(self, names: Iterable[str]) -> dict[str, int]:
        """When those of ``names`` that are files here were written last, in nanoseconds since 1970.

        Raises:
            StorageError: the storage does not say.
        """
        names = list(names)
        with self._told("read"):
            filesystem, folder = self._opened
            found = filesystem.get_file_info([f"{folder}/{name}" for name in names])
        return {name: info.mtime_ns for name, info in zip(names, found, strict=True) if info.type == fs.FileType.File}

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            StorageError: the storage does not do it.
        """
        with self._told("written"):
            filesystem, folder = self._opened
            try:
                filesystem.delete_file(f"{folder}/{name}")
            except FileNotFoundError:
                return

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        # Keys come from the environment of this process, so what is handed to other nodes is the URI alone.
        uri = self.uri
        if uri.startswith("s3://") and "allow_delayed_open=" not in uri:
            uri += ("&" if "?" in uri else "?") + "allow_delayed_open=true"  # one request for a small file, not three
        filesystem, folder = fs.FileSystem.from_uri(uri)
        return filesystem, folder.rstrip("/")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).partition(" (Request ID")[0]
            raise StorageError(f"The storage {self.place} cannot be {what}: {reason}") from error

    def _copy(self, source: pa.NativeFile, target: BinaryIO) -> None:
        while True:
            with self._told("read"):
                part = source.read(_COPIED_BYTES)
            if not part:
                return
            target.write(part)


def _bytes_of(content: bytes | Path) -> bytes | pa.Buffer:
    """The whole content at once, so that a file which cannot be read leaves no beginning of it in the storage."""
    if isinstance(content, bytes):
        return content
    if not content.stat().st_size:
        return b""  # which cannot be mapped
    return pa.memory_map(str(content)).read_buffer()


def patiently(work: Callable[[], _Found], patience_s: float, pause: Callable[[float], object] = time.sleep) -> _Found:
    """``work()``, again and again for about ``patience_s`` while the storage refuses.

    Raises:
        StorageError: it still refuses.
    """
    deadline, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return work()
        except StorageError:
            if time.monotonic() + pause_s > deadline:
                raise
        pause(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
