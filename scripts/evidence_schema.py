"""Writes docs/evidence.schema.json, the JSON Schema of evidence documents, from the models of aos_protocol.

Usage: python scripts/evidence_schema.py
"""

import json
from pathlib import Path

from aos_protocol.evidence_document import Evidence

FILE = Path(__file__).resolve().parents[1] / "docs" / "evidence.schema.json"


def schema_text() -> str:
    """The schema as it stands in the file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Evidence.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema_text(), "utf-8")
