"""The part of the profile that says how the lake's services are set up."""

from __future__ import annotations

from pydantic import field_validator

from sovereign.section import Section, refuse_secrets


class Datalake(Section):
    """The lake's services."""

    catalog: str | None = None
    """Database of the catalog (docs/catalog.md): `postgresql://user@host/database`, without a password, reachable from
    the machine that runs the commands. Absent: a SQLite file in the site's folder."""

    @field_validator("catalog")
    @classmethod
    def _catalog_is_a_database(cls, catalog: str | None) -> str | None:
        if catalog is not None:
            if not catalog.startswith("postgresql://"):
                raise ValueError("must be postgresql://user@host/database, or absent for a SQLite file")
            refuse_secrets(catalog)
        return catalog
