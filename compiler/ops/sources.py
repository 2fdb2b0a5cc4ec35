"""Sources: where rows come from. The function of a source gives its schema; runtime/data/sources.py reads the rows."""

from typing import Any

from pydantic import ConfigDict, Field

from ..diagnostics import Refusal
from ..images import image_schema
from ..operation import Bound, Kind, NoParams, Params, operation
from ..parquet import parquet_schema
from ..schema import WHOLE_BYTES, ColumnSchema, Files, Schema, array_schema, csv_schema, idx_bytes, idx_header, npy_header, npz_members, read_text


class CsvParams(Params):
    path: str = Field(description="file, relative to the data root; .gz is unpacked")
    header: bool = Field(True, description="whether the first line names the columns; else they are c1, c2, ...")
    separator: str = Field(",", min_length=1, max_length=1, description="what stands between cells")
    missing: str | tuple[str, ...] = Field("", description="cells that mean a missing value, beside empty ones")

    @property
    def gone(self) -> tuple[str, ...]:
        return (self.missing,) if isinstance(self.missing, str) else self.missing


class TsvParams(Params):
    path: str = Field(description="file, relative to the data root; .gz is unpacked")
    header: bool = Field(True, description="whether the first line names the columns; else they are c1, c2, ...")
    missing: str | tuple[str, ...] = Field("", description="cells that mean a missing value, beside empty ones")

    @property
    def as_csv(self) -> CsvParams:
        return CsvParams(path=self.path, header=self.header, separator="\t", missing=self.missing)


@operation(Kind.SOURCE, CsvParams)
def csv(p: CsvParams, files: Files) -> Schema:
    """A table of text: number columns are float32[1], others strings. RFC 4180 quoting, UTF-8."""
    return csv_schema(files.path(p.path), p.separator, p.header, p.gone)


@operation(Kind.SOURCE, TsvParams)
def tsv(p: TsvParams, files: Files) -> Schema:
    """A table of text as `csv` reads it, with a tab between cells."""
    return csv(p.as_csv, files)  # type: ignore[no-any-return]


def text_params(source: Bound) -> CsvParams | None:
    """How the text of a source is cut into cells; None for other sources."""
    if isinstance(source.params, TsvParams):
        return source.params.as_csv
    return source.params if isinstance(source.params, CsvParams) else None


class IdxParams(Params):
    images: str = Field(description="idx file of uint8 images")
    labels: str = Field(description="idx file of labels")


@operation(Kind.SOURCE, IdxParams)
def idx(p: IdxParams, files: Files) -> Schema:
    """`image` uint8 [1, height, width] and `label` int64, from a pair of idx files (MNIST's format), gzipped or not.

    Images that memory has no place for are read from an unpacked file as batches ask for them.
    """
    images, labels = files.path(p.images), files.path(p.labels)
    dtype, shape, _ = idx_header(images)
    if dtype != "uint8" or len(shape) != 3:
        raise Refusal("E410", at="images", label=f"it holds {dtype} of {len(shape)} axes", path=p.images, help="give uint8 images")
    label_dtype, label_shape, _ = idx_header(labels)
    if label_dtype != "uint8" or len(label_shape) != 1:
        raise Refusal("E410", at="labels", label=f"it holds {label_dtype} of {len(label_shape)} axes", path=p.labels, help="give labels")
    if label_shape[0] != shape[0]:
        raise Refusal("E410", at="labels", label=f"{label_shape[0]} labels for {shape[0]} images", path=p.labels, help="give the files of one set")
    highest = max(idx_bytes(labels), default=0)
    columns = {"image": ColumnSchema("uint8", (1, *shape[1:])), "label": ColumnSchema("int64", (), tuple(range(highest + 1)))}
    return Schema(columns, shape[0])


class PathParams(Params):
    path: str = Field(description="file, relative to the data root")


@operation(Kind.SOURCE, PathParams)
def npz(p: PathParams, files: Files) -> Schema:
    """The arrays of an .npz by name; the first axis is the sample. Never unpickled.

    Arrays that memory has no place for are read as batches ask for them, if they are not packed (numpy.savez).
    """
    path = files.path(p.path)
    return array_schema(npz_members(path), path.name)


@operation(Kind.SOURCE, PathParams)
def npy(p: PathParams, files: Files) -> Schema:
    """The array of a .npy, called `array`; the first axis is the sample. Never unpickled.

    What memory has no place for is read as batches ask for it.
    """
    path = files.path(p.path)
    with path.open("rb") as file:
        dtype, shape = npy_header(file, path.name, path.stat().st_size)
    return array_schema({"array": (dtype, shape)}, path.name)


@operation(Kind.SOURCE, PathParams)
def parquet(p: PathParams, files: Files) -> Schema:
    """The columns of a parquet file: numbers are float32[1], text is strings, null is a missing value. Needs `nnc-lang[parquet]`."""
    return parquet_schema(files.path(p.path))


class FolderParams(Params):
    path: str = Field(description="folder, relative to the data root")


@operation(Kind.SOURCE, FolderParams)
def image_folder(p: FolderParams, files: Files) -> Schema:
    """`image` uint8 [channels, height, width] of every image below a folder, and `label`, the name of the folder in it that holds the image.

    Labels are indices of the names, sorted. All images have one size, and are greyscale or RGB. Needs `nnc-lang[images]`.
    """
    return image_schema(files.folder(p.path), files.root)


class TableParams(Params):
    model_config = ConfigDict(extra="allow")

    @property
    def columns(self) -> dict[str, Any]:
        return self.model_extra or {}


@operation(Kind.SOURCE, TableParams)
def table(p: TableParams, files: Files) -> Schema:
    """The columns written in the call: lists of numbers or of strings, all of one length."""
    columns, values, lengths = {}, {}, {}
    for name, cells in p.columns.items():
        numbers = [c for c in cells if isinstance(c, int | float) and not isinstance(c, bool)] if isinstance(cells, tuple) else None
        if numbers is None or not cells or (len(numbers) != len(cells) and not all(isinstance(c, str) for c in cells)):
            raise Refusal("E206", at=name, label="not a list of numbers or of strings", help=f"write {name}=[0, 1, 1]", argument=name,
                          expected="a list of numbers or of strings")  # fmt: skip
        columns[name] = ColumnSchema("float", (1,)) if numbers else ColumnSchema("string")
        values[name] = tuple(sorted(set(numbers or cells)))
        lengths[name] = len(cells)
    if not columns:
        raise Refusal("E204", label="no column", help="write table(x=[0, 1], y=[1, 0])", operation="table", argument="name")
    longest = max(lengths, key=lambda n: lengths[n])
    for name, length in lengths.items():
        if length != lengths[longest]:
            raise Refusal("E410", at=name, label=f"{length} values; `{longest}` has {lengths[longest]}", path="table",
                          help="give every column the same number of values")  # fmt: skip
    return Schema(columns, lengths[longest], values)


@operation(Kind.SOURCE)
def digits(p: NoParams, files: Files) -> Schema:
    """Bundled: 1,797 handwritten digits, `pixels` float32[64] from 0 to 16 and `digit` from 0 to 9."""
    return Schema({"pixels": ColumnSchema("float", (64,)), "digit": ColumnSchema("int64", (), tuple(range(10)))}, 1797)


@operation(Kind.SOURCE)
def iris(p: NoParams, files: Files) -> Schema:
    """Bundled: 150 flowers, `sepal_length`, `sepal_width`, `petal_length`, `petal_width` in cm and `species` from 0 to 2."""
    columns = {name: ColumnSchema("float", (1,)) for name in ("sepal_length", "sepal_width", "petal_length", "petal_width")}
    return Schema(columns | {"species": ColumnSchema("int64", (), tuple(range(3)))}, 150)


WINE = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids", "nonflavanoid_phenols", "proanthocyanins",
    "color_intensity", "hue", "od280", "proline",
)  # fmt: skip


@operation(Kind.SOURCE)
def wine(p: NoParams, files: Files) -> Schema:
    """Bundled: 178 wines, thirteen chemical measures and `cultivar` from 0 to 2."""
    columns = {name: ColumnSchema("float", (1,)) for name in WINE}
    return Schema(columns | {"cultivar": ColumnSchema("int64", (), tuple(range(3)))}, 178)


@operation(Kind.SOURCE, PathParams)
def text(p: PathParams, files: Files) -> Schema:
    """A UTF-8 text, a row a character: `characters()` makes symbols of it."""
    path = files.path(p.path)
    if path.stat().st_size > WHOLE_BYTES:
        return Schema({"text": ColumnSchema("int64")})
    content = read_text(path)
    return Schema({"text": ColumnSchema("int64")}, len(content), {"text": tuple(sorted(set(content)))})
