"""Tables of layers: this project's own csv, json and parquet, and SCALE-Sim topologies in csv."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from workloads.blocks import Types, check_choice, check_counts, element_types, linear, series
from workloads.convolution import conv2d
from workloads.files import form_of, load_text
from workloads.trace import SCHEMA, Trace, TraceError, nearest

SPARSITY = ("dense", "skip")

#: Columns of SCALE-Sim's convolution form and the names they are also seen under.
CONVOLUTION = {
    "layer": ("layer name", "layer"),
    "ifmap height": ("ifmap height", "ifmap h"),
    "ifmap width": ("ifmap width", "ifmap w"),
    "filter height": ("filter height", "filter h"),
    "filter width": ("filter width", "filter w"),
    "channels": ("channels", "channel", "num channels"),
    "num filter": ("num filter", "num filters", "number of filters"),
    "strides": ("strides", "stride", "stride height", "stride h"),
    "stride width": ("stride width", "stride w"),
    "sparsity": ("sparsity",),
    "batch": ("batch size", "batch"),
}
#: Columns of its GEMM form.
GEMM = {
    "layer": ("layer", "layer name"),
    "m": ("m",),
    "n": ("n",),
    "k": ("k",),
    "sparsity": ("sparsity",),
    "batch": ("batch size", "batch"),
}
OPTIONAL = ("stride width", "sparsity", "batch")


def from_table(
    path,
    name: str | None = None,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    batch: int | None = None,
    sparsity: str = "dense",
) -> Trace:
    """A trace from a table of layers.

    Our own tables (.csv and .json, also .gz, and .parquet; what `Trace.save` writes, or by hand with the columns of
    `workloads.trace.SCHEMA`, of which layer, op and kind are required) hold everything: of the options only `name`
    applies.

    SCALE-Sim topologies (.csv, .csv.gz) are recognised by their header; upper and lower case, order and a comma at
    the end of a line do not matter. Sizes are whole numbers of elements:

    convolution: Layer name | IFMAP Height, IFMAP Width (input rows and columns, padding included) | Filter Height,
    Filter Width | Channels (of the input) | Num Filter (channels of the output) | Strides (rows; columns too unless
    there is a Stride Width) | optional: Stride Width, Sparsity, Batch Size. As SCALE-Sim counts, outputs are
    ceil((IFMAP - Filter) / Stride) + 1 each way: a last window over the edge counts. A layer with "DP" in its name is
    depthwise: every channel has Num Filter filters of its own.

    GEMM: Layer | M (rows of the input and the result) | N (columns of the weights and the result) | K (terms summed)
    | optional: Sparsity, Batch Size (multiplies M).

    The second operand counts as weights, as in SCALE-Sim, without a bias. Consecutive equal layers are one row with
    `repeats`, each with its own weights; layers run in series. `dtype` (default "fp32"), `weight_dtype` and
    `activation_dtype` are the element types, `batch` the inputs processed together (default 1; not for a file with
    its own Batch Size). Sparsity N:M (N of M weights are kept): `sparsity` "dense" costs the whole product and warns,
    "skip" counts the kept FLOP and weights only.

    Source: Samajdar et al., A systematic methodology for characterizing scalability of DNN accelerators using
    SCALE-Sim, ISPASS 2020, and the topology files of SCALE-Sim v2 and v3. Raises `TraceError` naming file, row
    (counted from 0), column and value: no such file, unreadable or not text, a header of neither form, a missing or
    unknown column with the nearest known one, a cell that is not a positive whole number, a filter larger than its
    input, too few or too many cells, an unknown element type, an option that does not apply.
    """
    path = Path(path)
    check_choice(str(path), "sparsity", sparsity, SPARSITY)
    if batch is not None:
        check_counts(str(path), batch=batch)
    if form_of(path) != "csv" or _is_own(load_text(path)):
        given = {"dtype": dtype, "weight_dtype": weight_dtype, "activation_dtype": activation_dtype, "batch": batch}
        for option, value in given.items():
            if value is not None:
                raise TraceError(f"{path}: {option} {value!r} does not apply: the table has its own")
        trace = Trace.load(path)
        return trace if name is None else trace.replace(name=name)
    types = element_types(str(path), dtype or "fp32", weight_dtype, activation_dtype)
    columns, lines = _topology(load_text(path), path)
    build = _convolution if "channels" in columns else _gemm
    own_batch = "batch" in columns
    if own_batch and batch is not None:
        raise TraceError(f"{path}: batch {batch!r} does not apply: the table has its own")
    rows = [_row(build, columns, cells, f"{path}: row {number}", types, batch or 1, sparsity)
            for number, cells in enumerate(lines)]  # fmt: skip
    _warn_of_sparse(rows, path)
    sequences = max(row.pop("_batch") for row in rows)
    title = path.name.split(".")[0] if name is None else name
    return Trace.from_rows(series([_folded(rows)]), name=title, sequences=sequences, source=str(path))


def _is_own(text: str) -> bool:
    """Whether a csv has our columns: our comment line, or 'op' and 'kind' in its header."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("#"):
        return True
    header = {cell.strip() for cell in lines[0].split(",")} if lines else set()
    return bool(header & (set(SCHEMA) - {"layer", "m", "n", "k", "batch"}))


def _normal(cell: str) -> str:
    return re.sub(r"[\s_]+", " ", cell).strip().lower()


# -- reading -----------------------------------------------------------------------------------------


def _topology(text: str, path: Path) -> tuple[dict[str, int], list[list[str]]]:
    """Position of each column, and the cells of every layer."""
    try:
        lines = [[cell.strip() for cell in cells] for cells in csv.reader(text.splitlines(), strict=True)]
    except csv.Error as error:
        raise TraceError(f"{path}: not valid csv ({error})") from None
    lines = [_without_end(cells) for cells in lines if any(cells)]
    if not lines:
        raise TraceError(f"{path}: empty: a header row is expected")
    columns = _columns([_normal(cell) for cell in lines[0]], path)
    if len(lines) == 1:
        raise TraceError(f"{path}: no layers below the header")
    for number, cells in enumerate(lines[1:]):
        least = 1 + max(position for column, position in columns.items() if column not in OPTIONAL)
        if not least <= len(cells) <= len(lines[0]):
            wanted = len(lines[0]) if least == len(lines[0]) else f"{least} to {len(lines[0])}"
            raise TraceError(f"{path}: row {number}: {len(cells)} cells where the header has {wanted}")
    return columns, lines[1:]


def _without_end(cells: list[str]) -> list[str]:
    """The cells before an empty or a commented one at the end of the line."""
    kept = list(cells)
    while kept and (not kept[-1] or kept[-1].startswith("#")):
        kept.pop()
    return kept


def _columns(header: list[str], path: Path) -> dict[str, int]:
    form = CONVOLUTION if any("ifmap" in cell or "filter" in cell for cell in header) else GEMM
    names = {alias: column for column, aliases in form.items() for alias in aliases}
    if not set(header) & set(names):
        known = " or ".join(", ".join(c for c in f if c not in OPTIONAL) for f in (CONVOLUTION, GEMM))
        raise TraceError(f"{path}: neither our columns (layer, op, kind, ...) nor SCALE-Sim's ({known})")
    found: dict[str, int] = {}
    for position, cell in enumerate(header):
        if cell not in names:
            raise TraceError(f"{path}: unknown column {cell!r}{nearest(cell, names)}")
        if names[cell] in found:
            raise TraceError(f"{path}: column {cell!r} appears twice")
        found[names[cell]] = position
    for column in form:
        if column not in found and column not in OPTIONAL:
            raise TraceError(f"{path}: column {column!r} is missing")
    return found


def _row(
    build: Callable, columns: Mapping[str, int], cells: list[str], where: str, types: Types, batch: int, sparsity: str
) -> dict:
    """The row of one layer, its `_batch` and whether it is `_sparse`."""

    def size(column: str, default: int | None = None) -> int:
        text = cells[columns[column]] if column in columns and columns[column] < len(cells) else ""
        if not text and default is not None:
            return default
        if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
            raise TraceError(f"{where}: {column!r} must be a whole number of 1 or more, got {text!r}")
        return int(text)

    layer = cells[columns["layer"]]
    if not layer:
        raise TraceError(f"{where}: 'layer' is empty")
    batch = size("batch", batch)
    try:
        row = build(size, layer, batch, types)
    except TraceError as error:
        text = str(error)
        raise TraceError(text if text.startswith(where) else f"{where} ({layer}): {text}") from None
    position = columns.get("sparsity", len(cells))
    kept, of = _ratio(cells[position] if position < len(cells) else "", where)
    if sparsity == "skip":
        row = _thinned(row, kept, of)
    return row | {"_batch": batch, "_sparse": kept < of and sparsity == "dense"}


def _ratio(text: str, where: str) -> tuple[int, int]:
    """(N, M) of "N:M"; nothing is 1:1."""
    found = re.fullmatch(r"(\d+)\s*:\s*(\d+)", text or "1:1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise TraceError(f"{where}: 'sparsity' must be N:M with N weights of M kept, got {text!r}")
    return int(found[1]), int(found[2])


def _thinned(row: dict, kept: int, of: int) -> dict:
    """A product that skips the weights that are not kept."""
    columns = ("matrix_flops", "parameters", "weight_bytes")
    return row | {column: -(-row[column] * kept // of) for column in columns}


def _warn_of_sparse(rows: list[dict], path: Path) -> None:
    sparse = sum(row.pop("_sparse") for row in rows)
    if sparse:
        text = f"{path}: {sparse} layers are sparse and costed dense; sparsity='skip' counts the kept weights only"
        warnings.warn(text, UserWarning, stacklevel=3)


# -- rows --------------------------------------------------------------------------------------------


def _gemm(size: Callable, layer: str, batch: int, types: Types) -> dict:
    return linear.row(size("m") * batch, size("n"), size("k"), types=types, bias=False, layer=layer)


def _convolution(size: Callable, layer: str, batch: int, types: Types) -> dict:
    """A convolution whose input is widened so that the last window, which may go over the edge, counts."""
    channels, filters = size("channels"), size("num filter")
    depthwise = "DP" in layer
    strides = (size("strides"), size("stride width", size("strides")))
    kernels = (size("filter height"), size("filter width"))
    sizes = (size("ifmap height"), size("ifmap width"))
    for side, kernel, length in zip(("height", "width"), kernels, sizes, strict=True):
        if kernel > length:
            raise TraceError(f"'filter {side}' must not exceed 'ifmap {side}' ({length}), got {kernel}")
    wide = [k + s * -(-(n - k) // s) for n, k, s in zip(sizes, kernels, strides, strict=True)]
    row = conv2d.row(
        channels, filters * (channels if depthwise else 1), *wide, kernels, types=types, stride=strides,
        groups=channels if depthwise else 1, batch=batch, bias=False, layer=layer,
    )  # fmt: skip
    return row | {"input_bytes": types.activations(batch * channels * sizes[0] * sizes[1])}


def _folded(rows: list[dict]) -> list[dict]:
    """Neighbours that do the same work as one row, named after the first and the last."""
    folded: list[tuple[list[str], dict]] = []
    for row in rows:
        work = {column: value for column, value in row.items() if column != "layer"}
        if folded and folded[-1][1] == work:
            folded[-1][0].append(row["layer"])
        else:
            folded.append(([row["layer"]], work))
    return [
        {"layer": _label(names), **work, "repeats": len(names), "weight_sets": len(names)} for names, work in folded
    ]


def _label(names: list[str]) -> str:
    """ "FeedForward_1-24" for names that count up, else "a to b"."""
    first, last = names[0], names[-1]
    if first == last:
        return first
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in (first, last)]
    if all(parts) and parts[0][1] == parts[1][1] and int(parts[1][2]) - int(parts[0][2]) == len(names) - 1:
        return f"{first}-{parts[1][2]}"
    return f"{first} to {last}"
