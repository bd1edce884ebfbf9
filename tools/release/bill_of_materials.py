"""Write what fervor needs and ships as a CycloneDX 1.6 bill of materials.

    python tools/release/bill_of_materials.py bom.json

Distributions are those of this environment, with the licences that licences.py reads; the shipped
 weights are components too, with checksum and data terms. There is no time and no random
number in the file: the same environment gives the same file. Format: cyclonedx.org/docs/1.6/json.
"""

import argparse
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from licences import ALLOWED, Need, needed

import fervor
from fervor.artifacts import packaged
from fervor.io.provenance import write_text


Component = dict[str, Any]

FERVOR = f"pkg:pypi/fervor@{fervor.__version__}"


def licensed(said: str) -> list[dict[str, Any]]:
    """CycloneDX's list of licences: an expression where every word of it is SPDX, else a name."""
    spdx = ALLOWED - {"BSD"}
    words = said.replace("(", " ").replace(")", " ").replace(" OR ", " AND ").split(" AND ")
    if all(word.strip() in spdx for word in words):
        return [{"expression": said}]
    return [{"license": {"name": said}}] if said else []


def library(need: Need) -> Component:
    """A distribution; the copyleft libraries in its wheel are components of it."""
    reference = f"pkg:pypi/{need.name}@{need.version}"
    component: Component = {
        "type": "library",
        "bom-ref": reference,
        "name": need.name,
        "version": need.version,
        "purl": reference,
        "licenses": licensed(need.licence),
        "properties": [{"name": "fervor:extra", "value": name} for name in sorted(need.extras)],
    }
    if need.bundled:
        component["components"] = [
            {
                "type": "library",
                "bom-ref": f"{reference}#{name}",
                "name": name,
                "licenses": [{"expression": its}],
            }
            for name, its in need.bundled.items()
        ]
    return component


def weights(weight: packaged.Weight) -> Component:
    """A file of weights; its version is fervor's."""
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{FERVOR}#{weight.name}",
        "name": weight.name,
        "version": fervor.__version__,
        "licenses": licensed(weight.licence),
        "hashes": [{"alg": "SHA-256", "content": weight.sha256}],
        "properties": [{"name": "fervor:data_terms", "value": weight.data_terms}],
    }


def bill(needs: Mapping[str, Need], shipped: Iterable[packaged.Weight]) -> dict[str, Any]:
    """The whole document; fervor itself needs what its pyproject.toml names."""
    packages = [library(need) for need in needs.values()]
    models = [weights(weight) for weight in shipped]
    reference = {need.name: f"pkg:pypi/{need.name}@{need.version}" for need in needs.values()}
    direct = [reference[need.name] for need in needs.values() if need.direct]
    content = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": FERVOR,
                "name": "fervor",
                "version": fervor.__version__,
                "purl": FERVOR,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": [*packages, *models],
        "dependencies": [
            {
                "ref": FERVOR,
                "dependsOn": [*direct, *(model["bom-ref"] for model in models)],
            },
            *(
                {
                    "ref": reference[name],
                    "dependsOn": sorted(reference[other] for other in need.needs),
                }
                for name, need in needs.items()
            ),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}"}
    return {**head, "version": 1, **content}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    document = bill(needed(), packaged.shipped())
    write_text(options.output, json.dumps(document, indent=2) + "\n")
    print(f"{len(document['components'])} components in {options.output}")


if __name__ == "__main__":
    main()
