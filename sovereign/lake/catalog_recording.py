"""Takes a dataset's version into the catalog: one snapshot of `documents`, and rows in the other tables.

The data files are the files that stage `curate` made, byte for byte, stored again under the SHA-256 of their content:
`curated/` keeps the newest version only. A file that two versions have is stored once. They are not written anew, so
that what a snapshot has can be held against the receipt. docs/decisions/0010 has the alternatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.typedef import Record

from sovereign.lake.catalog import Catalog, data_files, evolve, told
from sovereign.lake.catalog_tables import (
    DATASET_RECORDED,
    DOCUMENTS,
    DOCUMENTS_SCHEMA,
    PARTITION,
    SET_ASIDE,
    TABLES,
    dataset_row,
    decision_row,
    licence_rows,
    owner_rows,
)
from sovereign.lake.catalog_versions import DATASET, RECEIPT, VERSION, Version, versions_of
from sovereign.lake.dataset import Dataset, split_of
from sovereign.profile_rights import Owner
from sovereign.receipts import made_by, model_digest

Report = Callable[[int, int], None]
"""Told how many of how many files are stored."""


def record(
    catalog: Catalog, dataset: Dataset, agreed: Iterable[Owner] = (), report: Report = lambda *_: None
) -> tuple[Version, bool]:
    """Take the dataset's present version into the catalog, unless it is the newest there.

    The documents come in one commit: when it is interrupted before, the table is as it was. The same call goes on with
    what is missing then.

    Args:
        agreed: what the profile says of owners.

    Returns:
        The version, and whether its documents came in now.

    Raises:
        CatalogError: the catalog cannot be written, or a column has another type than before.
        StoreError: a file is missing, or not what its receipt says.
    """
    receipt = dataset.parents["curate"]
    digest = model_digest(receipt.outputs)
    splits = sorted({split_of(name) for name in dataset.files})
    with told(f"record {dataset.name}"):
        documents = catalog.ensure(DOCUMENTS, DOCUMENTS_SCHEMA, PARTITION)
        is_new = _newest_digest(documents, dataset.name) != digest
        if is_new:
            _commit(catalog, documents, dataset, digest, report)
        version = [one for one in versions_of(documents) if one.dataset == dataset.name][-1]
        of = {"dataset": dataset.name, "version": digest}
        key = f"{dataset.name}@{digest}"
        catalog.replace("owners", **of, rows=[of | row for row in owner_rows(receipt, splits, agreed)])
        catalog.append("licences", key, [of | row for row in licence_rows(receipt, splits)])
        catalog.append("datasets", key, [of | dataset_row(receipt, splits, version.snapshot_id)])
        details = {"receipt_key": receipt.key, "snapshot_id": version.snapshot_id}
        decision = decision_row(DATASET_RECORDED, made_by(), datetime.now(UTC), details)
        catalog.append("decisions", f"{DATASET_RECORDED} {version.snapshot_id}", [of | decision])
        catalog.append_parts(SET_ASIDE, key, _set_aside(dataset, of))
    return version, is_new


def _set_aside(dataset: Dataset, of: Mapping[str, str]) -> Iterator[pa.Table]:
    """Which documents are not in the version, and why."""
    schema = TABLES[SET_ASIDE]
    for name in dataset.rejected_files:
        path = dataset.fetch(name)
        found = pq.read_table(path, columns=[name for name in schema.names if name not in of])
        for column, value in of.items():
            found = found.append_column(column, pa.array([value] * found.num_rows, pa.string()))
        yield found.select(schema.names)
        path.unlink()


def _newest_digest(documents: Table, dataset: str) -> str | None:
    found = [one.version for one in versions_of(documents) if one.dataset == dataset]
    return found[-1] if found else None


def _commit(catalog: Catalog, documents: Table, dataset: Dataset, digest: str, report: Report) -> None:
    """One snapshot in which the dataset's files are those of this version."""
    before = {file.file_path: file for file in data_files(documents, dataset.name)}
    wanted: dict[str, str] = {}
    for number, name in enumerate(dataset.files):
        report(number, len(dataset.files))
        wanted[_store_file(catalog, dataset, name)] = split_of(name)
    with documents.transaction() as transaction:
        entries: list[DataFile] = []
        schemas: list[pa.Schema] = []
        for location in sorted(wanted.keys() - before.keys()):
            footer = _footer(documents, location)
            if (schema := footer.schema.to_arrow_schema()) not in schemas:
                schemas.append(schema)
                evolve(transaction, schema)
            size_bytes = len(documents.io.new_input(location))
            partition = Record(dataset.name, wanted[location])
            entries.append(_data_file(transaction, location, size_bytes, partition, footer))
        _map_names(transaction)
        properties = {DATASET: dataset.name, VERSION: digest, RECEIPT: dataset.parents["curate"].key}
        with transaction.update_snapshot(snapshot_properties=properties).overwrite() as snapshot:
            for location in before.keys() - wanted.keys():
                snapshot.delete_data_file(before[location])
            for entry in entries:
                snapshot.append_data_file(entry)
    report(len(dataset.files), len(dataset.files))


def _store_file(catalog: Catalog, dataset: Dataset, name: str) -> str:
    """Store one of the dataset's files where the table keeps it, unless it is there; its location."""
    partition = (f"dataset={dataset.name}", f"split={split_of(name)}")
    key = catalog.key(DOCUMENTS, "data", *partition, f"{dataset.files[name]}.parquet")
    if not catalog.store.exists(key):
        path = dataset.fetch(name)
        catalog.store.put_file(key, path)
        path.unlink()
    return catalog.location(key)


def _footer(documents: Table, location: str) -> pq.FileMetaData:
    with documents.io.new_input(location).open() as file:
        return pq.read_metadata(cast(pa.NativeFile, file))


def _map_names(transaction: Transaction) -> None:
    """The files have no field ids: readers find columns by these names."""
    metadata = transaction.table_metadata
    mapping = metadata.schema().name_mapping.model_dump_json()
    if metadata.properties.get(TableProperties.DEFAULT_NAME_MAPPING) != mapping:
        transaction.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})


def _data_file(
    transaction: Transaction, location: str, size_bytes: int, partition: Record, footer: pq.FileMetaData
) -> DataFile:
    """The table's entry for a file. pyiceberg's `add_files` takes partition values from the file's columns only."""
    metadata = transaction.table_metadata
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=footer,
        stats_columns=compute_statistics_plan(metadata.schema(), metadata.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(metadata.schema()),
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=size_bytes,
        sort_order_id=None,
        spec_id=metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
