# SPDX-License-Identifier: BSD-3-Clause
"""The commands `sklearn-iqa weights`: `list`, `fetch`, `where`, `verify`, `convert`."""

import itertools
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from sklearn_iqa.cli.files import WrongUse, one_line
from sklearn_iqa.cli.methods import all_methods, find_method, parse_settings
from sklearn_iqa.cli.output import INPUT_ERRORS, TABLE_WIDTH, row_writer, table_lines, table_option, warnings_as_lines

# Run by who trusts the file, where the classes of its authors can be imported; nothing here opens it.
CONVERSION = """\
# Loading runs whatever code the file holds: run this once, in a sandbox, beside its authors' code.
import torch

found = torch.load({path!r}, map_location="cpu", weights_only=False)
state = found.state_dict() if isinstance(found, torch.nn.Module) else found["state_dict"]
torch.save(state, {converted!r})
"""


class Named(NamedTuple):
    """Published weights and the method that they belong to."""

    method: Any
    entry: Any  # a `PublishedWeights`

    @property
    def name(self) -> str:
        return f"{self.method.__name__}:{self.entry.name}"


@click.group("weights", short_help="List, fetch, verify and convert files of weights.")
def weights_group():
    """Care for files of weights.

    NAME is METHOD:WEIGHTS, such as nima:koniq, or METHOD alone for its default weights.
    """


@weights_group.command("list", short_help="Show the published weights and their files.")
@table_option
def list_files(output):
    """Show the published weights: their files, data and licences.

    A file that is at hand, in the cache folder, an installed package or the cache of the Hugging Face hub, is shown
    with its size.
    """
    rows = [_file_facts(named, file) for named in _all_named() for file in named.entry.files]
    if output == "table":
        click.echo("\n".join(_blocks(rows)))
        return
    write = row_writer(output, list(rows[0]))
    for row in rows:
        write(row)


def _blocks(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each weights their name, what is known of them, and a line for each file."""
    for (method, name), group in itertools.groupby(rows, key=lambda row: (row["method"], row["name"])):
        files = list(group)
        first, width = files[0], max(len(row["file"]) for row in files)
        yield f"{method}:{name}{' (default)' if first['default'] else ''}"
        facts = f"trained on {first['trained_on']}; licence: {first['licence']}"
        yield from textwrap.wrap(facts, TABLE_WIDTH, initial_indent="    ", subsequent_indent="    ")
        for row in files:
            size = _readable(row["size"]) if row["at_hand"] else "not at hand"
            yield f"    {row['file']:{width}}  {size}"


def _file_facts(named: Named, file: Any) -> dict[str, Any]:
    from sklearn_iqa._weights import pretrained

    path = pretrained.local_copy(file)
    return {
        "method": named.method.__name__,
        "name": named.entry.name,
        "default": named.entry is named.method.published[0],
        "file": file.filename,
        "at_hand": path is not None,
        "size": None if path is None else path.stat().st_size,
        "trained_on": named.entry.trained_on,
        "licence": named.entry.licence,
    }


def _readable(n_bytes: int) -> str:
    """A number of bytes in a unit in which it has one to three digits before the point."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


@weights_group.command(short_help="Download published weights.")
@click.argument("names", nargs=-1, metavar="NAMES...")
@click.option("--all", "everything", is_flag=True, help="All published weights of all methods.")
@click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors to standard error.")
@click.pass_context
def fetch(ctx, names, everything, quiet):
    """Download published weights, unless they are at hand, and write the paths of their files.

    NAMES are METHOD:WEIGHTS, or METHOD for its default. After a failure the others are still fetched; the exit status
    is then 1, with one line for each failure.
    """
    from sklearn_iqa._weights import pretrained

    if bool(names) == everything:
        raise WrongUse("Name weights, such as nima:koniq, or give --all alone.")
    chosen = list(_all_named()) if everything else [_find_named(name) for name in names]
    failures = []
    for named, file in _files(chosen):
        try:
            with warnings_as_lines(quiet):
                click.echo(pretrained.fetch(file, verbose=int(not quiet and sys.stderr.isatty())))
        except INPUT_ERRORS as error:
            failures.append(f"Error: {named.name}: {one_line(error)}")
    for failure in failures:
        click.echo(failure, err=True)
    ctx.exit(int(bool(failures)))


@weights_group.command(short_help="Show where files of weights are.")
def where():
    """Write the cache folder, and in further lines which weights are at hand, and the paths of their files."""
    from sklearn_iqa._weights import pretrained

    click.echo(pretrained.cache_dir())
    found = [(named.name, pretrained.local_copy(file)) for named in _all_named() for file in named.entry.files]
    rows = [(name, str(path)) for name, path in found if path is not None]
    if rows:
        _, *lines = table_lines(("", ""), rows, wrap=False)
        click.echo("\n".join(lines))


@weights_group.command(short_help="Hash files of weights again.")
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@table_option
@click.pass_context
def verify(ctx, names, output):
    r"""Hash the files that are at hand, and write their whole SHA-256 and whether it is the published one.

    NAMES are METHOD:WEIGHTS, or METHOD for its default; without names all published weights are looked for.

    \b
    ok       the published digest, or, with "8 digits", all that is known of it
    pinned   published without a digest, and still the same as its first copy
    unknown  published without a digest, and never used
    wrong    another file, which is never used; the exit status is 1
    missing  named, and not at hand; the exit status is 1
    """
    rows = []
    for named, file in _files([_find_named(name) for name in names] or list(_all_named())):
        rows += _verified(named, file, missing=bool(names))
    columns = ("status", "sha256", "path")
    if output == "table":
        cells = [(row["status"], row["sha256"], row["path"] or row["file"]) for row in rows]
        click.echo("\n".join(table_lines(columns, cells, wrap=False)))
    else:
        write = row_writer(output, ["weights", "file", *columns])
        for row in rows:
            write(row)
    ctx.exit(int(any(row["status"] in ("wrong", "missing") for row in rows)))


def _verified(named: Named, file: Any, *, missing: bool) -> list[dict[str, str]]:
    """Rows of all copies of a file; `missing` says whether there is one for a file without any."""
    from sklearn_iqa._weights import pretrained

    row, rows = {"weights": named.name, "file": file.filename}, []
    expected = file.sha256 or pretrained.pinned(file)
    for path in pretrained.local_copies(file):
        digest = pretrained.sha256(path)
        if expected is None:
            status = "unknown"
        elif not digest.startswith(expected):
            status = "wrong"
        elif file.sha256 is None:
            status = "pinned"
        else:
            status = "ok" if expected == digest else f"ok, {len(expected)} digits"
        rows.append(row | {"status": status, "sha256": digest, "path": str(path)})
    if missing and not rows:
        rows.append(row | {"status": "missing", "sha256": "", "path": ""})
    return rows


@weights_group.command(short_help="Write a file of weights as safetensors.")
@click.argument("file", type=click.Path())
@click.argument("method")
@click.option(
    "-o", "--out", type=click.Path(), help="The new file; by default FILE with the ending .safetensors, if it is new."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the method that the weights were trained with: --set net=vgg.",
)
@click.pass_context
def convert(ctx, file, method, out, settings):
    """Write a file of weights, in any layout that METHOD reads, as .safetensors under the names of its network.

    Files that hold pickled Python objects are not opened: for them, the lines of Python are written that make a file
    of tensors of them, to be run once where the file is trusted, and the exit status is 1.
    """
    from sklearn_iqa._weights.state_dicts import PickledObjectsError

    found = find_method(method)
    parameters = parse_settings(found, settings)
    path = Path(os.path.expanduser(file)).absolute()  # no published name
    target = path.with_suffix(".safetensors") if out is None else Path(os.path.expanduser(out))
    if out is None and target.exists():
        raise WrongUse(f"{target} exists: name the new file with --out.")
    try:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}: give the path of a file of weights.")
        found(**parameters, weights=str(path), device="cpu").initialize().save_weights(target)
    except PickledObjectsError:
        converted = path.with_name(f"{path.stem}-state.pth")
        click.echo(CONVERSION.format(path=str(path), converted=str(converted)), nl=False)
        click.echo(
            f"Error: {path} holds pickled Python objects, which are never opened here: where you trust it, run the "
            f"lines on standard output once, then convert {converted.name}.",
            err=True,
        )
        ctx.exit(1)
    except INPUT_ERRORS as error:
        raise click.ClickException(one_line(error)) from error
    click.echo(target)


def _all_named() -> Iterator[Named]:
    for method in all_methods():
        for entry in method.published:
            yield Named(method, entry)


def _find_named(name: str) -> Named:
    """METHOD:WEIGHTS, or METHOD for its default."""
    from sklearn_iqa._weights import pretrained

    method_name, _, weights = name.partition(":")
    method = find_method(method_name)
    if not method.published:
        raise WrongUse(f"{method.__name__} has no published weights: `sklearn-iqa weights list` shows all.")
    entry = pretrained.find_published(weights or pretrained.DEFAULT, method.published)
    if entry is None:
        known = ", ".join(entry.name for entry in method.published)
        raise WrongUse(f"{method.__name__} has no published weights {weights!r}: it has {known}.")
    return Named(method, entry)


def _files(chosen: Sequence[Named]) -> Iterator[tuple[Named, Any]]:
    """Files of weights, each once, with the first weights that it belongs to."""
    seen = set()
    for named in chosen:
        for file in named.entry.files:
            if file not in seen:
                seen.add(file)
                yield named, file
