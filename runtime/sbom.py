"""Adds what pip does not know to an image's bill of materials: Python itself and the base image's Debian packages.

Reads the CycloneDX document of cyclonedx-py from standard input and writes the complete one to standard output:
`python sbom.py PYTHON_VERSION DISTRIBUTION PACKAGES`. PACKAGES is a file with lines of `name version architecture`, as
dpkg-query writes them; it is empty for a base image without dpkg.
"""

import json
import sys
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def main(python: str, distribution: str, packages: Path) -> None:
    """Copy the document with the further components."""
    bom = Bom.from_json(json.load(sys.stdin))  # type: ignore[attr-defined]  # made by a decorator
    bom.components.add(_component(PackageURL("generic", None, "python", python), ComponentType.PLATFORM))
    for line in packages.read_text().splitlines():
        name, version, architecture = line.split()
        bom.components.add(_component(PackageURL("deb", distribution, name, version, {"arch": architecture})))
    sys.stdout.write(JsonV1Dot6(bom).output_as_string(indent=1))


def _component(url: PackageURL, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    return Component(type=kind, name=url.name, version=url.version, purl=url, bom_ref=str(url))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
