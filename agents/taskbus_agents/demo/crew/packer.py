"""@packer: packs the release into an archive, reads it back, and prints its result in the handoff shorthand."""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path


def main() -> None:
    """Pack RELEASE.md and the notes; name the archive with its size and SHA-256."""
    delegation = json.loads(sys.stdin.readline())
    project = Path(delegation["payload"]["artifacts"][0]["path"])
    archive = project / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(project / "RELEASE.md", "RELEASE.md")
        packed.add(project / "notes", "notes")
    with tarfile.open(archive) as packed:
        files = sum(member.isfile() for member in packed.getmembers())
    content = archive.read_bytes()
    artifact = {
        "path": str(archive),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "media_type": "application/gzip",
    }
    print(  # noqa: T201 - stdout is where an agent answers
        json.dumps(
            {
                "status": "success",
                "description": f"{archive.name}, {files} files, not signed",
                "artifacts": [artifact],
                "verification_result": f"Read back: {files} files",
            }
        )
    )


if __name__ == "__main__":
    main()
