"""The archive in a place that fsspec reaches: an object store, or another machine.

Owns how a driver is found, and said to be missing. Nobody can be kept out there, so the names of segments tell their
bytes apart. Called through `taskbus.archive.stores`, from threads.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, cast

from taskbus.address import redacted
from taskbus.archive.folder import explained
from taskbus.archive.stores import Claim
from taskbus.errors import ArchiveFault, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

_DRIVERS: Final = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("webdav", "webdavs"), "webdav4"),
}


class Remote:
    """A place that fsspec reaches, such as `s3://bucket/archive`; credentials are its driver's business.

    Nobody is kept out: two archivers may seal the same envelopes, under names that tell their bytes apart. A file is
    written to a temporary folder of this machine first, then sent whole.
    """

    is_guarded: bool = False

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.url = redacted(self._url)
        self._files, self._root = _opened(self._url)

    def names(self) -> list[str]:
        """The names of all files, as the store has them now."""
        with self._explained("read"):
            try:
                self._files.invalidate_cache(self._root)
                found: list[str] = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return [path.rstrip("/").rpartition("/")[2] for path in found]

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Bytes of a file."""
        with self._explained("read"):
            try:
                return self._files.cat_file(self._path(name), start=start, end=end)
            except FileNotFoundError:
                return None

    @contextmanager
    def making(self) -> Generator[Path]:
        """A file of this machine."""
        with TemporaryDirectory(prefix="taskbus-") as folder, explained(f"{self.url}, by way of {folder},", "written"):
            yield Path(folder) / "segment"

    def put(self, made: Path, name: str) -> None:
        """Sent whole; where it stands already, with its bytes in its name, it is left alone."""
        with self._explained("written"):
            path = self._path(name)
            if not self._files.exists(path) or self._files.size(path) != made.stat().st_size:
                self._files.makedirs(self._root, exist_ok=True)
                self._files.put_file(str(made), path)

    def write(self, name: str, content: bytes) -> None:
        """In one step, where the store has such."""
        with self._explained("written"):
            self._files.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._explained("written"):
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def claim(self) -> Claim | None:
        """Everybody has it."""
        return Claim()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _explained(self, what: str) -> Generator[None]:
        try:
            yield
        except ArchiveFault:
            raise
        except Exception as error:  # whatever the driver's client raises
            message = f"The archive {self.url} cannot be {what}: {str(error) or type(error).__name__}"
            raise ArchiveFault(
                message,
                advice="Check its address and your credentials, then run it again: nothing is lost, or done twice.",
            ) from error


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    scheme = url.partition("://")[0]
    try:
        core = import_module("fsspec.core")
    except ImportError as error:
        message = f"An archive at {redacted(url)} needs fsspec, which is not installed."
        raise ConfigurationError(message, advice=_install(scheme)) from error
    try:
        files, root = cast("tuple[Any, str]", core.url_to_fs(url))
    except ImportError as error:
        message = f"An archive at {redacted(url)} needs a driver that is not installed: {error}"
        raise ConfigurationError(message, advice=_install(scheme)) from error
    except Exception as error:
        message = f"The archive's address {redacted(url)} cannot be used: {error}"
        raise ConfigurationError(message, advice="Write a folder's path, or a URL like s3://bucket/folder.") from error
    return files, root.rstrip("/")


def _install(scheme: str) -> str:
    driver = _DRIVERS.get(scheme)
    return f"Install it: pip install 'taskbus[store]'{f' {driver}' if driver else ''}"
