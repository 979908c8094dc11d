"""Identities of the sites, for servers that may lie: the component of a job that knows the sites' keys."""

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from fl.integrations.nvflare._nvflare import FLComponent, FLContext
from fl.integrations.nvflare.errors import NVFlareJobError
from secagg import ClientId, Identity, LocalProtocolError, PinnedKeys
from secagg.identity import KeyDirectory
from transport.certificates.key_files import read_key_file


class SiteIdentities(FLComponent):
    """A component of the job, on the server and on each site; `add_secure_aggregation` adds it."""

    @abstractmethod
    def identity(self, site: str, fl_ctx: FLContext) -> Identity:
        """Return this site's own identity; called on sites only."""

    @abstractmethod
    def directory(self, sites: Sequence[str], fl_ctx: FLContext) -> KeyDirectory:
        """Return the directory of a round's keys: a client's number is its site's place in ``sites``."""


class SiteKeyFiles(SiteIdentities):
    """Identities from files on each site: its own secret key, and the public keys of all sites.

    Args:
        identity_file: 32 bytes, as `new_identity_file` writes them; on sites only.
        directory_file: a JSON object of site names and public keys in hexadecimal, the same everywhere.

    Relative paths start at the site's own configuration folder, ``local``, which jobs cannot write to; NVFlare replaces
    ``{SITE_NAME}`` in them.

    Security: an attacker that can replace the directory can play all sites but one.  It must not come from the job's
    server: the sites send their public keys to each other.
    """

    def __init__(
        self, identity_file: str = "secagg_identity.key", directory_file: str = "secagg_directory.json"
    ) -> None:
        super().__init__()
        self.identity_file = identity_file
        self.directory_file = directory_file

    def identity(self, site: str, fl_ctx: FLContext) -> Identity:
        """Return the key in the site's own file; raise NVFlareJobError if it is missing, or others can read it."""
        path = local_path(self.identity_file, fl_ctx)
        if not os.path.exists(path):
            raise NVFlareJobError(f"this site has no identity key {path}: make one with new_identity_file")
        try:
            return Identity(read_key_file(path, raises=NVFlareJobError))
        except LocalProtocolError as error:
            raise NVFlareJobError(f"{path} is not an identity key: {error}") from None

    def directory(self, sites: Sequence[str], fl_ctx: FLContext) -> KeyDirectory:
        """Return the keys in the directory's file; raise NVFlareJobError if it is invalid or lacks a site."""
        path = local_path(self.directory_file, fl_ctx)
        try:
            listed = json.loads(path.read_text())
            keys: dict[ClientId, bytes] = {number: bytes.fromhex(listed[site]) for number, site in enumerate(sites)}
            return PinnedKeys(keys)
        except OSError as error:
            raise NVFlareJobError(f"the directory of keys {path} cannot be read: {error.strerror}") from None
        except KeyError as error:
            raise NVFlareJobError(f"the directory of keys {path} has no site {error}") from None
        except (ValueError, TypeError, LocalProtocolError) as error:
            raise NVFlareJobError(f"{path} is not a directory of keys: {error}") from None


def new_identity_file(path: str | os.PathLike[str]) -> str:
    """Write a new identity key that only its owner can read; return the public key in hexadecimal.

    Raise NVFlareJobError if the file exists: a key is never overwritten.
    """
    identity = Identity.generate()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise NVFlareJobError(f"the identity key {path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.to_bytes())
    return identity.public_key.hex()


def local_path(name: str, fl_ctx: FLContext) -> Path:
    """Return a path from the job's configuration; relative paths start at the site's own folder, ``local``."""
    path = Path(name)
    if path.is_absolute():
        return path
    return Path(fl_ctx.get_engine().get_workspace().get_site_config_dir()) / path
