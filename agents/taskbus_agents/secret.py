"""The secrets: which values of an environment nobody is to see, told by the names of variables and by what they are.

A word that stands in any text is none, whatever its variable is called: to mask it would maim what people are to read.
Called by the masking.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHORTEST: Final = 6
"""Characters. Shorter ones stand in any text."""
_LINE: Final = 16
"""Characters of a line that is masked by itself, of a value with several."""
_PLAIN: Final = 12
"""Characters from which on a word alone is no word of a language, for a key."""
_PHRASE: Final = 16
"""The same of several words, such as `session_id` or `eu-central-1`."""
_PASSWORD: Final = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|PWD|SECRET|CREDENTIAL)S?\Z|(?:TOKEN|APIKEY)\Z|\A(?:PASS|PAT)\Z"
)
_KEY: Final = re.compile(r"KEY\Z")
_OF_ACCESS: Final = frozenset({"API", "ACCESS", "AUTH", "PRIVATE"})
"""With one of these in its name, a key is no place in a table or a cache."""
_ABOUT: Final = re.compile(
    "ALG|ALGORITHM|AUDIENCE|COUNT|DIR|ENDPOINT|EXPIRES|EXPIRY|FILE|FOLDER|FORMAT|HOST|HOSTNAME|ISSUER|LENGTH|LIMIT|"
    "MODE|NAME|PATH|PORT|PREFIX|REGION|SIZE|STORE|TIMEOUT|TTL|TYPE|URI|URL|USER|USERNAME"
)
"""How the name of a variable ends that is about a secret, and has none."""
_FOLDERS: Final = frozenset({"PWD", "OLDPWD"})
_USUAL: Final = re.compile(
    "administrator|anonymous|automatic|changeme|default|development|disabled|enabled|example|keychain|keyring|"
    "localhost|optional|password|postgres|production|required|secret|staging|testing|undefined|unknown|username",
    re.IGNORECASE,
)
"""Words that stand where a secret could, and are none."""
_SMALL: Final = re.compile(r"[+-]?(?:[0-9][.,_]?){1,7}")
_PATH: Final = re.compile(r"(?:~|\.{1,2})?(?:/[a-z0-9_.@-]+)+/?")
_WORD: Final = re.compile(r"[a-z]+|[A-Z][a-z]+|[A-Z]+")
_PARTS: Final = re.compile(r"[-_.:/,@ ]")
_PART: Final = re.compile(r"(?:[A-Z]?[a-z]{0,10}|[A-Z]{2,10})|v?[0-9]{1,2}[a-z]?")
_IN_ADDRESS: Final = (
    re.compile(r"://[^/@\s:]*:([^/\s]+)@"),
    re.compile(r"(?:\A|[\s;&?])(?:password|passwd|pwd)=([^\s;&]+)", re.IGNORECASE),
)


def words(environments: Iterable[Mapping[str, str]], key: str | None = None) -> set[str]:
    """The secrets in environments, and a key, which is one whatever it looks like."""
    found = {key} if key is not None and len(key) >= SHORTEST else set[str]()
    for environment in environments:
        for name, value in environment.items():
            found |= _in_value(name, value)
    return found


def _in_value(name: str, value: str) -> set[str]:
    found = {each for form in _IN_ADDRESS for each in form.findall(value) if not _is_ordinary(each, is_password=True)}
    parts = re.split(r"[^A-Z0-9]+", name.upper())
    if _ABOUT.fullmatch(parts[-1]) or name in _FOLDERS:
        return found
    is_key = any(map(_KEY.search, parts))
    is_password = any(map(_PASSWORD.search, parts)) or (is_key and not _OF_ACCESS.isdisjoint(parts))
    if (is_password or is_key) and not _is_ordinary(value, is_password=is_password):
        lines = {line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE}
        found |= {value, *lines}
    return found


def _is_ordinary(value: str, *, is_password: bool) -> bool:
    """Whether it is a word, a number or a path, as stands in texts. Less is one where a password is expected."""
    if len(value) < SHORTEST or _USUAL.fullmatch(value) or _SMALL.fullmatch(value) or _PATH.fullmatch(value):
        return True
    if value.startswith(("/", ".")) and _is_there(value):
        return True
    if _WORD.fullmatch(value):
        return len(value) < (8 if is_password else _PLAIN)
    several = _PARTS.split(value)
    return not is_password and len(several) > 1 and len(value) < _PHRASE and all(map(_PART.fullmatch, several))


def _is_there(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a path
        return False
